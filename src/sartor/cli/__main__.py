"""``python -m sartor.cli``, for launchers such as torchrun."""

from sartor.cli.main import main

main()
