"""Figures, tables and one self-contained page from finished run folders: `fedpurin report`.

    folders.py, read.py     run folders -> Run            figure.py   what a figure shows, said once
    comparison.py, named.py runs -> groups over seeds     draw.py     figure -> PNG, SVG, PDF (matplotlib)
    parts/                  groups -> figures, tables     interactive.py  figure -> the page (plotly.js)
    table.py                tables -> CSV, LaTeX          alt.py      figure -> words
    look.py, style.py       sizes, fonts, colours         page.py     everything -> one HTML file (page.html, Jinja2)

Reads what runs recorded and computes nothing that a run should have measured: bytes come from the ledger's lines,
accuracies from the evaluation's. Imports nothing of the engine, and neither torch nor lightning.
"""
