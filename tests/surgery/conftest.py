from importlib.util import find_spec

if any(find_spec(name) is None for name in ("timm", "torchvision", "transformers")):
    collect_ignore_glob = ["architectures.py", "test_libraries*"]  # the core-only environment
