"""Studies: what the documentation claims, as sweeps that one command runs again (`fedpurin reproduce`).

    plan.py     configs/study/*.yaml -> the runs it asks for     results.py  finished runs -> compact rows, CSV
    store.py    run folders by code, data and options            compare.py  rows -> means, paired intervals, confirmation
    runner.py   the missing runs, several side by side           page.py, figure.py  their table, sentences and picture
    measured.py studies of seconds and memory: a script of benchmarks/ in place of runs

Owns no training and no numbers of its own: a run is `fedpurin` with these overrides, and every number comes from its folder.
"""
