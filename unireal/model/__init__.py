"""The network: one stream of text, input-frame and result-frame tokens with full attention (UniReal, section 3.1)."""
