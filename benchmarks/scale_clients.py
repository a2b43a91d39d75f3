"""A round against the number of clients: all of them, or a hundred drawn a round; interleaved in one process.

    python -m benchmarks.scale_clients [--method fedavg] [--rounds 5]

Clients hold 17 Fashion-MNIST images of 8 x 8 pixels each and train a small CNN for one epoch of batches of 8. Each
number is a median over rounds of the ratio to the round of 100 clients that was run beside it.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from contextlib import ExitStack

from benchmarks.common import opened, seconds_of_round, write

OPTIONS = (
    "data=fashion_mnist", "data.image_size=8", "partition.train_per_client=17", "partition.test_per_client=5",
    "trainer.batch_size=8", "trainer.local_epochs=1",
)  # fmt: skip
COUNTS = (10, 30, 100, 300, 1000, 2000)
DRAWN = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="fedavg")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds after a warm-up (default: %(default)s)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    base = [*OPTIONS, f"method={arguments.method}", f"trainer.rounds={arguments.rounds + 1}"]
    wanted = [(count, None) for count in COUNTS] + [(count, DRAWN) for count in COUNTS if count > DRAWN]
    with ExitStack() as stack:
        open_ = {
            (count, drawn): stack.enter_context(
                opened([*base, f"partition.num_clients={count}", f"trainer.clients_per_round={drawn or 'null'}"])
            )
            for count, drawn in wanted
        }
        ratios: dict[tuple[int, int | None], list[float]] = {case: [] for case in wanted}
        for number in range(arguments.rounds + 1):
            for case in wanted:
                reference = None if case == (100, None) else open_[100, None]
                mine = seconds_of_round(open_[case], number)
                beside = mine if reference is None else seconds_of_round(reference, number)
                if number:  # the first compiles and fills caches
                    ratios[case].append(mine / beside)
    middle = {case: statistics.median(values) for case, values in ratios.items()}
    rows = [
        {
            "clients": count,
            "all take part": middle[count, None],
            "the same, a client": middle[count, None] * 100 / count,
            f"{DRAWN} drawn a round": middle.get((count, DRAWN)),
        }
        for count in COUNTS
    ]
    title = f"A round of {arguments.method} over the round of 100 clients"
    command = f"python -m benchmarks.scale_clients --method {arguments.method} --rounds {arguments.rounds}"
    write(
        f"scale_clients_{arguments.method}", title, command, rows,
        lines=["the same, a client", f"{DRAWN} drawn a round"], y="ratio",
    )  # fmt: skip


if __name__ == "__main__":
    main()
