"""Fit and test PaDiM: ``python run.py KEY=VALUE ...``; ``python run.py --help`` lists the keys."""

from padim_lit.cli.start import main

if __name__ == "__main__":
    main()
