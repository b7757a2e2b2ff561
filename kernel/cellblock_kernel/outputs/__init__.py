"""What comes out of containers, made safe to show: text, markup, bundles of MIME types."""
