"""Entry point: ``python -m benchmarks NAME --help``."""

import runpy
import sys

NAMES = {
    "speed": "fit and score over the backbone's forward pass alone, and peak memory",
    "peers": "the same for PaDiM as usually written and for anomalib",
    "patchcore": "detection, size and time beside anomalib's PatchCore, on real images",
    "scaling": "how cost grows with images, dimensions, positions and batch",
    "sweep": "one pass over the images against separate runs",
    "metrics": "pixel AUROC, AP and AUPRO of large maps",
    "load": "mode=predict over very many images: memory and pace from first to last",
    "pictures": "images a second from large PNGs on disk",
    "thresholds": "how often the printed interval of false alarms is true",
    "accuracy": "moments and metrics against float64 NumPy and scikit-learn",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in ("-h", "--help"):
        name = None
    elif name is not None and name not in NAMES:
        sys.exit(f"error: no benchmark {name!r}; allowed: {', '.join(NAMES)}")
    if name is None:
        print("python -m benchmarks NAME [--help]")
        for known, what in NAMES.items():
            print(f"  {known:<10} {what}")
        return
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
