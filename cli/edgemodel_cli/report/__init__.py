"""The parts of the HTML report: figures as inline SVG, tables as rows of text, one template."""
