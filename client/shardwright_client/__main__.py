"""`python -m shardwright_client` is the `shardwright` command."""

from shardwright_client.cli import main

main()
