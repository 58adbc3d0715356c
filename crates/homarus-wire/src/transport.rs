//! The transport header: what a proxy says first on a tunnelled connection (proxy-wire §6.3).
