"""``disco app``: docking from a web page that this machine serves to itself."""
