"""AURORA-Bench (Krojer et al., arXiv 2407.03471): how well an editor does what it is told, beside what a copy gets.

`items` what is asked, from the published files; `twin` the same families in the miniature world, with exact answers;
`measures` and `embeddings` how an answer is measured; `judge` an optional judge and what its scores mean; `disc_edit`
DiscEdit; `editors` what can be measured; `pipeline` all together, `evaluate` with files and a page.
"""
