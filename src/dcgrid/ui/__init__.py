"""A page in the browser for edits, compositions and stories; the extra dcgrid[ui], with Gradio.

    cli.ui -> server.serve -> components.make_blocks -> runs.Run -> api.Session

It is a caller of the Python API and nothing below it. Gradio is loaded when the page is made.
"""
