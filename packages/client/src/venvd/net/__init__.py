"""Bytes to and from a peer: connections and pools that know no protocol, and protocols that know no socket."""
