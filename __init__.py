"""ComfyUI entry: `custom_nodes/` imports this folder as a package; pip and pytest have no business here."""

if __package__:  # pytest and setuptools read this file as a loose module: then it does nothing
    import sys
    from importlib.util import find_spec, module_from_spec, spec_from_file_location
    from pathlib import Path

    # The installed wheel wins; else the sibling folders are loaded by name. Never through sys.path: that would put
    # our `nodes` folder beside ComfyUI's own module of that name.
    _found = find_spec("wm_pipelines")
    if _found is None or _found.origin is None:
        for _name in ("custom_kernels", "wm_pipelines"):
            _folder = Path(__file__).parent / _name
            _spec = spec_from_file_location(_name, _folder / "__init__.py", submodule_search_locations=[str(_folder)])
            sys.modules[_name] = module_from_spec(_spec)
            _spec.loader.exec_module(sys.modules[_name])

    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
