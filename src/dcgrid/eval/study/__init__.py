"""A blinded user study of pairs: made as a web page, served if need be, counted as Table 3.

    results.json -> make.py -> DIR/page/ (handed out), DIR/key.json (kept)
                                   |  raters, each with a browser
                                   v
    DIR/key.json + one answers file a rater -> answers.py -> preferences.py

Read design.py first.
"""
