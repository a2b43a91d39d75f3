"""The `fedpurin` command's subcommands, one file each; importing this package loads nothing."""
