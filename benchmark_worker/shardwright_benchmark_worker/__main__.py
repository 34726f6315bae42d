"""`python -m shardwright_benchmark_worker`, as torchrun starts it."""

from shardwright_benchmark_worker.cli import main

if __name__ == "__main__":
    main()
