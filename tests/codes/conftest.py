collect_ignore = ["two_bases.py"]  # for doctests pytest would import its class a second time
