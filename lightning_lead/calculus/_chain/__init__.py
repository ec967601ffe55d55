"""The same derivatives, faster, for losses of the form L(D(G(z))), which `gan._structure` recognises."""
