"""The gateway: admits requests by their token, forwards them to the upstream, and meters them."""
