//! Which addresses are of the public internet, and which lead into a network that a consumer must not reach.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The public internet.
    Public,
    /// This machine, or a network that is not public.
    Private,
    /// A service of the machine's host that hands out its credentials.
    Metadata,
    /// No host at all: multicast, reserved, for documentation.
    Nowhere,
}

/// Addresses at which clouds give their machines names, keys and tokens: AWS, Azure, Google and most others at
/// the first; then AWS for containers, Alibaba, and Azure's own agent.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Where an address leads, by the registries of special addresses (RFC 6890 and what came after it).
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    if METADATA_V4.contains(&address) {
        return Reach::Metadata;
    }
    match address.octets() {
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [169, 254, ..] => Reach::Private,
        // Carriers' shared space, protocol assignments (among them DS-Lite), benchmarks.
        [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => Reach::Private,
        // Linux connects 0.0.0.0 to itself. Documentation, the old 6to4 relays, multicast and reserved.
        [0, ..] | [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] | [224..=255, ..] => {
            Reach::Nowhere
        }
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if METADATA_V6.contains(&address) {
        return Reach::Metadata;
    }
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Nowhere,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // An IPv4 address inside is what is reached: mapped, compatible, translated (RFC 6052), and 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // The local translation prefix, unique local, link-local and site-local.
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff, ..] | [0xfe80..=0xfeff, ..] => Reach::Private,
        // Protocol assignments, among them Teredo; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Nowhere,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_where_the_registries_say() {
        let table: [(Reach, &[&str]); 4] = [
            (Reach::Public, &["1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111", "2a00::1"]),
            (Reach::Public, &["::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]),
            (
                Reach::Private,
                &[
                    "10.0.0.1",
                    "127.0.0.1",
                    "127.255.0.9",
                    "172.16.0.1",
                    "192.168.1.1",
                    "169.254.1.1",
                    "100.64.0.1",
                    "192.0.0.8",
                    "198.19.255.255",
                    "::1",
                    "fe80::1",
                    "fec0::1",
                    "fc00::1",
                    "fdff::1",
                    "64:ff9b:1::1",
                    "::ffff:127.0.0.1",
                    "::127.0.0.1",
                    "64:ff9b::7f00:1",
                    "64:ff9b::c0a8:101",
                    "2002:7f00:1::",
                    "2002:c0a8:101::1",
                ],
            ),
            (
                Reach::Nowhere,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "192.0.2.1",
                    "198.51.100.1",
                    "203.0.113.1",
                    "224.0.0.1",
                    "240.0.0.1",
                    "255.255.255.255",
                    "::",
                    "ff02::1",
                    "2001:db8::1",
                    "2001::1",
                    "3fff::1",
                    "100::1",
                    "::ffff:0.0.0.0",
                    "5f00::1",
                ],
            ),
        ];
        for (expected, addresses) in table {
            for text in addresses {
                assert_eq!(reach(text.parse().unwrap()), expected, "{text}");
            }
        }
        for text in
            ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "168.63.129.16"]
        {
            assert_eq!(reach(text.parse().unwrap()), Reach::Metadata, "{text}");
        }
    }
}
