from importlib.util import find_spec

if any(find_spec(name) is None for name in ("timm", "torchvision", "transformers")):
    # The core-only environment.
    collect_ignore_glob = ["architectures.py", "test_libraries*", "test_decay_groups.py"]
