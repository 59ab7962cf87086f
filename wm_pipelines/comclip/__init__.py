"""ComCLIP (arXiv 2211.13854, NAACL 2024): training-free matching of a picture and a sentence by their parts."""
