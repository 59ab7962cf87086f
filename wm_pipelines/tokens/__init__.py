"""Pictures as codes: a stock `VQModel` both ways, which token stands for which code, and the import of VQGANs."""
