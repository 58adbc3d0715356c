//! Rules into nf_tables messages (`linux/netfilter/nf_tables.h`): each set of rules is one transaction.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::Ipv4Net;

use super::netlink::{ACK, Body, CREATE, Messages, Netlink, REQUEST};
use super::rules::{Frontend, Ruleset};

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const IPV4: u8 = 2;
/// The table goes with the socket that made it.
const TABLE_OWNER: u32 = 2;
const REG_VERDICT: u32 = 0;
/// The first of the 32-bit registers.
const REG: u32 = 8;
const VERDICT_TYPE: u32 = 0xffff_ff00;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;
const GOTO: u32 = (-4i32).cast_unsigned();
/// Elements in one message: attributes are at most 64 KiB long.
const ELEMENTS_MAX: usize = 256;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;
const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const SERVICES: &str = "services";
const HAIRPINS: &str = "hairpins";

static SET_IDS: AtomicU32 = AtomicU32::new(1);

/// Replaces the Service rules in the calling thread's network namespace.
pub(super) fn replace_services(rules: &Ruleset, services: Ipv4Net, gateway: Ipv4Addr) -> io::Result<()> {
    let mut batch = Batch::new("homarus");
    batch.table(0);
    batch.delete_table();
    batch.table(0);
    batch.service_maps(rules);
    for (chain, hook) in [("prerouting", HOOK_PREROUTING), ("output", HOOK_OUTPUT)] {
        batch.chain(chain, Some(("nat", hook, PRIORITY_DSTNAT)));
        batch.rule(chain, |rule| {
            load_network(rule, 16, REG);
            load_transport_number(rule, REG + 1);
            load_port(rule, REG + 2);
            lookup(rule, SERVICES, REG, REG_VERDICT);
        });
    }
    batch.hairpins(rules, gateway);
    for (chain, hook) in [("refuse-forward", HOOK_FORWARD), ("refuse-output", HOOK_OUTPUT)] {
        batch.chain(chain, Some(("filter", hook, 0)));
        batch.rule(chain, |rule| {
            load_network(rule, 16, REG);
            match_network(rule, REG, services, true);
            expression(rule, "reject", |e| {
                e.number_be(1, 0); // an ICMP message,
                e.attribute(2, &[3]); // port unreachable: the client's connect is refused
            });
        });
    }
    Netlink::netfilter()?.send(&batch.finish())
}

/// Hides the pods behind the machine's own address where they go further than the machine. The rules last as long
/// as what is returned.
pub(super) fn masquerade(name: &str, pods: Ipv4Net, inside: &str) -> io::Result<Masquerade> {
    let mut batch = Batch::new(name);
    batch.table(TABLE_OWNER);
    batch.chain("postrouting", Some(("nat", HOOK_POSTROUTING, PRIORITY_SRCNAT)));
    batch.rule("postrouting", |rule| {
        load_network(rule, 12, REG);
        match_network(rule, REG, pods, true);
        expression(rule, "meta", |e| {
            e.number_be(1, REG);
            e.number_be(2, 7); // the name of the interface it leaves by
        });
        let mut padded = [0; 16];
        let length = inside.len().min(15);
        padded[..length].copy_from_slice(&inside.as_bytes()[..length]);
        compare(rule, REG, false, &padded);
        expression(rule, "masq", |_| {});
    });
    let socket = Netlink::netfilter()?;
    socket.send(&batch.finish())?;
    Ok(Masquerade { _socket: socket })
}

/// Owns a table: the kernel removes it with this socket.
#[derive(Debug)]
pub(super) struct Masquerade {
    _socket: Netlink,
}

struct Batch {
    messages: Messages,
    table: String,
}

impl Batch {
    fn new(table: &str) -> Self {
        let mut messages = Messages::default();
        messages.message(BATCH_BEGIN, REQUEST, |body| {
            body.raw(&[0, 0, 0, SUBSYSTEM.to_be_bytes()[1]]);
        });
        Self { messages, table: table.into() }
    }

    fn push(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Body<'_>)) {
        self.messages.message((SUBSYSTEM << 8) | kind, REQUEST | flags, |body| {
            body.raw(&[IPV4, 0, 0, 0]);
            fill(body);
        });
    }

    /// Ends the batch with a change that changes nothing and is acknowledged.
    fn finish(mut self) -> Messages {
        let table = self.table.clone();
        self.push(NEWCHAIN, CREATE | ACK, |body| {
            body.text(1, &table);
            body.text(3, "end");
        });
        self.messages.message(BATCH_END, REQUEST, |body| {
            body.raw(&[0, 0, 0, SUBSYSTEM.to_be_bytes()[1]]);
        });
        self.messages
    }

    fn table(&mut self, flags: u32) {
        let table = self.table.clone();
        self.push(NEWTABLE, CREATE, |body| {
            body.text(1, &table);
            body.number_be(2, flags);
        });
    }

    fn delete_table(&mut self) {
        let table = self.table.clone();
        self.push(DELTABLE, 0, |body| body.text(1, &table));
    }

    fn chain(&mut self, name: &str, base: Option<(&str, u32, i32)>) {
        let table = self.table.clone();
        self.push(NEWCHAIN, CREATE, |body| {
            body.text(1, &table);
            body.text(3, name);
            if let Some((kind, hook, priority)) = base {
                body.nested(4, |h| {
                    h.number_be(1, hook);
                    h.number_be(2, priority.cast_unsigned());
                });
                body.text(7, kind);
            }
        });
    }

    fn rule(&mut self, chain: &str, fill: impl FnOnce(&mut Body<'_>)) {
        const APPEND: u16 = 0x800;
        let table = self.table.clone();
        self.push(NEWRULE, CREATE | APPEND, |body| {
            body.text(1, &table);
            body.text(2, chain);
            body.nested(4, fill);
        });
    }

    fn set(&mut self, name: &str, key: (u32, u32), flags: u32, value: Option<(u32, u32)>) {
        let table = self.table.clone();
        self.push(NEWSET, CREATE, |body| {
            body.text(1, &table);
            body.text(2, name);
            body.number_be(3, flags);
            body.number_be(4, key.0);
            body.number_be(5, key.1);
            if let Some((kind, length)) = value {
                body.number_be(6, kind);
                if length > 0 {
                    body.number_be(7, length);
                }
            }
            body.number_be(10, SET_IDS.fetch_add(1, Ordering::Relaxed));
        });
    }

    fn elements<T>(&mut self, set: &str, all: &[T], fill: impl Fn(&mut Body<'_>, &T)) {
        let table = self.table.clone();
        for chunk in all.chunks(ELEMENTS_MAX) {
            self.push(NEWSETELEM, CREATE, |body| {
                body.text(1, &table);
                body.text(2, set);
                body.nested(3, |list| {
                    for element in chunk {
                        list.nested(1, |e| fill(e, element));
                    }
                });
            });
        }
    }

    /// A chain and a map of endpoints for each frontend, and the map that finds them.
    fn service_maps(&mut self, rules: &Ruleset) {
        const IP_PROTOCOL_PORT: u32 = (7 << 12) | (12 << 6) | 13;
        const IP_PORT: u32 = (7 << 6) | 13;
        const NUMBER: u32 = 4;
        let mut index: Vec<(Frontend, String)> = Vec::new();
        for (at, (frontend, endpoints)) in rules.services.iter().enumerate() {
            let (chain, map) = (format!("svc-{at}"), format!("eps-{at}"));
            self.set(&map, (NUMBER, 4), SET_MAP | SET_CONSTANT, Some((IP_PORT, 8)));
            let numbered: Vec<_> = (0u32..).zip(endpoints).collect();
            self.elements(&map, &numbered, |e, (number, (ip, port))| {
                e.nested(1, |key| key.attribute(1, &number.to_ne_bytes()));
                e.nested(2, |value| value.attribute(1, &concat(*ip, *port)));
            });
            self.chain(&chain, None);
            let count = u32::try_from(endpoints.len()).unwrap_or(1);
            self.rule(&chain, |rule| draw_endpoint(rule, &map, count));
            index.push((*frontend, chain));
        }
        self.set(SERVICES, (IP_PROTOCOL_PORT, 12), SET_MAP, Some((VERDICT_TYPE, 0)));
        self.elements(SERVICES, &index, |e, (frontend, chain)| {
            e.nested(1, |key| key.attribute(1, &frontend_key(frontend)));
            e.nested(2, |value| {
                value.nested(2, |verdict| {
                    verdict.number_be(1, GOTO);
                    verdict.text(2, chain);
                });
            });
        });
    }

    /// A pod that reaches itself through a Service must see the gateway as its client, or it would answer itself.
    fn hairpins(&mut self, rules: &Ruleset, gateway: Ipv4Addr) {
        const IP_IP: u32 = (7 << 6) | 7;
        self.set(HAIRPINS, (IP_IP, 8), 0, None);
        let pods: Vec<_> = rules.hairpins().into_iter().collect();
        self.elements(HAIRPINS, &pods, |e, ip| {
            let mut both = ip.octets().to_vec();
            both.extend_from_slice(&ip.octets());
            e.nested(1, |key| key.attribute(1, &both));
        });
        self.chain("postrouting", Some(("nat", HOOK_POSTROUTING, PRIORITY_SRCNAT)));
        self.rule("postrouting", |rule| {
            load_network(rule, 12, REG);
            load_network(rule, 16, REG + 1);
            expression(rule, "lookup", |e| {
                e.text(1, HAIRPINS);
                e.number_be(2, REG);
            });
            expression(rule, "immediate", |e| {
                e.number_be(1, REG);
                e.nested(2, |value| value.attribute(1, &gateway.octets()));
            });
            expression(rule, "nat", |e| {
                e.number_be(1, 0); // the source
                e.number_be(2, u32::from(IPV4));
                e.number_be(3, REG);
            });
        });
    }
}

fn draw_endpoint(rule: &mut Body<'_>, map: &str, count: u32) {
    expression(rule, "numgen", |e| {
        e.number_be(1, REG);
        e.number_be(2, count);
        e.number_be(3, 1); // random
        e.number_be(4, 0);
    });
    lookup(rule, map, REG, REG);
    expression(rule, "nat", |e| {
        e.number_be(1, 1); // the destination
        e.number_be(2, u32::from(IPV4));
        e.number_be(3, REG);
        e.number_be(5, REG + 1);
    });
}

fn expression(rule: &mut Body<'_>, name: &str, fill: impl FnOnce(&mut Body<'_>)) {
    rule.nested(1, |e| {
        e.text(1, name);
        e.nested(2, fill);
    });
}

/// Four bytes of the IPv4 header.
fn load_network(rule: &mut Body<'_>, offset: u32, register: u32) {
    load(rule, 1, offset, 4, register);
}

/// The destination port.
fn load_port(rule: &mut Body<'_>, register: u32) {
    load(rule, 2, 2, 2, register);
}

fn load(rule: &mut Body<'_>, header: u32, offset: u32, length: u32, register: u32) {
    expression(rule, "payload", |e| {
        e.number_be(1, register);
        e.number_be(2, header);
        e.number_be(3, offset);
        e.number_be(4, length);
    });
}

fn load_transport_number(rule: &mut Body<'_>, register: u32) {
    const L4PROTO: u32 = 16;
    expression(rule, "meta", |e| {
        e.number_be(1, register);
        e.number_be(2, L4PROTO);
    });
}

fn lookup(rule: &mut Body<'_>, map: &str, key: u32, value: u32) {
    expression(rule, "lookup", |e| {
        e.text(1, map);
        e.number_be(2, key);
        e.number_be(3, value);
    });
}

fn compare(rule: &mut Body<'_>, register: u32, equal: bool, value: &[u8]) {
    expression(rule, "cmp", |e| {
        e.number_be(1, register);
        e.number_be(2, u32::from(!equal));
        e.nested(3, |v| v.attribute(1, value));
    });
}

fn match_network(rule: &mut Body<'_>, register: u32, network: Ipv4Net, equal: bool) {
    expression(rule, "bitwise", |e| {
        e.number_be(1, register);
        e.number_be(2, register);
        e.number_be(3, 4);
        e.nested(4, |v| v.attribute(1, &network.netmask().octets()));
        e.nested(5, |v| v.attribute(1, &[0; 4]));
    });
    compare(rule, register, equal, &network.network().octets());
}

/// An address and a port as two registers.
fn concat(ip: Ipv4Addr, port: u16) -> [u8; 8] {
    let ([a, b, c, d], [e, f]) = (ip.octets(), port.to_be_bytes());
    [a, b, c, d, e, f, 0, 0]
}

fn frontend_key(frontend: &Frontend) -> [u8; 12] {
    let [a, b, c, d] = frontend.address.octets();
    let [e, f] = frontend.port.to_be_bytes();
    [a, b, c, d, frontend.transport.number(), 0, 0, 0, e, f, 0, 0]
}
