//! Finds the source and, as far as the packet has them, the headers behind it. Nothing is assumed of a packet: each read
//! is checked against its end, lengths it states are compared with the length it has.

use abi::door::Counter;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;

const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;
/// Extension headers looked through. A chain of more is malformed: no sender needs it (RFC 8504 §5.3).
const EXTENSIONS_MAX: u32 = 8;
/// Headers beyond this are not looked for: nothing sends them, and the verifier wants a bound.
const UPPER_BYTES_MAX: usize = 0x1fff;

const TYPE_V4: u16 = 0x0800;
const TYPE_V6: u16 = 0x86dd;
const TYPE_TAG: u16 = 0x8100;
const TYPE_SERVICE_TAG: u16 = 0x88a8;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;

#[derive(Clone, Copy)]
pub enum Network {
    V4(u32),
    V6(u64, u64),
}

#[derive(Clone, Copy)]
pub struct Frame {
    /// Who sent it.
    pub network: Network,
    /// Offset of the IP header: 14, 18 or 22.
    network_at: usize,
}

/// What the packet carries, as far as it can be told.
#[derive(Clone, Copy)]
pub struct Upper {
    pub protocol: u8,
    pub state: State,
    /// Offset of its header.
    at: usize,
    hop_limit: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Whole,
    /// A fragment other than the first: there is no header.
    Fragment,
    Malformed,
}

/// A pointer to so many bytes of the packet from `offset`, if it has them.
#[inline(always)]
fn at(context: &XdpContext, offset: usize, bytes: usize) -> Option<*const u8> {
    let start = context.data() + offset;
    (start + bytes <= context.data_end()).then_some(start as *const u8)
}

/// A number of the network from anywhere in checked bytes.
///
/// # Safety
/// `at` and the bytes of `T` behind it were checked.
#[inline(always)]
unsafe fn read<T: Copy>(start: *const u8, offset: usize) -> T {
    // SAFETY: the caller's.
    unsafe { start.add(offset).cast::<T>().read_unaligned() }
}

impl Frame {
    /// `Err`: nobody's list can say anything about it, and why.
    #[inline(always)]
    pub fn read(context: &XdpContext) -> Result<Self, Counter> {
        let Some(ethernet) = at(context, 0, ETHERNET_BYTES) else { return Err(Counter::Malformed) };
        // SAFETY: checked.
        let mut kind = u16::from_be(unsafe { read(ethernet, 12) });
        let mut network_at = ETHERNET_BYTES;
        if is_tag(kind) {
            let Some(tag) = at(context, ETHERNET_BYTES, TAG_BYTES) else { return Err(Counter::Malformed) };
            // SAFETY: checked.
            kind = u16::from_be(unsafe { read(tag, 2) });
            network_at = ETHERNET_BYTES + TAG_BYTES;
            if is_tag(kind) {
                let Some(tag) = at(context, ETHERNET_BYTES + TAG_BYTES, TAG_BYTES) else {
                    return Err(Counter::Malformed);
                };
                // SAFETY: checked.
                kind = u16::from_be(unsafe { read(tag, 2) });
                network_at = ETHERNET_BYTES + 2 * TAG_BYTES;
                if is_tag(kind) {
                    return Err(Counter::Tags);
                }
            }
        }
        match kind {
            TYPE_V4 => {
                let Some(header) = at(context, network_at, V4_BYTES) else { return Err(Counter::Malformed) };
                // SAFETY: checked.
                let (version, source) = unsafe { (read::<u8>(header, 0) >> 4, read(header, 12)) };
                if version != 4 {
                    return Err(Counter::Malformed);
                }
                Ok(Self { network: Network::V4(u32::from_be(source)), network_at })
            }
            TYPE_V6 => {
                let Some(header) = at(context, network_at, V6_BYTES) else { return Err(Counter::Malformed) };
                // SAFETY: checked.
                let (version, high, low) = unsafe { (read::<u8>(header, 0) >> 4, read(header, 8), read(header, 16)) };
                if version != 6 {
                    return Err(Counter::Malformed);
                }
                Ok(Self { network: Network::V6(u64::from_be(high), u64::from_be(low)), network_at })
            }
            _ => Err(Counter::OtherProtocol),
        }
    }

    /// The packet is addressed to.
    #[inline(always)]
    pub fn destination(&self, context: &XdpContext) -> [u64; 2] {
        match self.network {
            // SAFETY: checked.
            Network::V4(_) => at(context, self.network_at, V4_BYTES)
                .map_or([0, 0], |header| [0, 0xffff_0000_0000 | u32::from_be(unsafe { read(header, 16) }) as u64]),
            // SAFETY: checked.
            Network::V6(..) => at(context, self.network_at, V6_BYTES)
                .map_or([0, 0], |header| unsafe { [u64::from_be(read(header, 24)), u64::from_be(read(header, 32))] }),
        }
    }

    #[inline(always)]
    pub fn upper4(&self, context: &XdpContext) -> Upper {
        let Some(header) = at(context, self.network_at, V4_BYTES) else { return Upper::MALFORMED };
        // SAFETY: checked.
        let (length, total, fragment, protocol): (u8, u16, u16, u8) =
            unsafe { (read(header, 0), read(header, 2), read(header, 6), read(header, 9)) };
        let length = ((length & 0xf) as usize) * 4;
        let total = u16::from_be(total) as usize;
        let is_malformed = length < V4_BYTES || total < length || !has(context, self.network_at + total);
        let state = if is_malformed {
            State::Malformed
        } else if u16::from_be(fragment) & 0x1fff != 0 {
            State::Fragment
        } else {
            State::Whole
        };
        Upper { protocol, state, at: self.network_at + length, hop_limit: 0 }
    }

    #[inline(always)]
    pub fn upper6(&self, context: &XdpContext) -> Upper {
        Upper::unpack(upper6(context.ctx, self.network_at as u32))
    }
}

/// Walks the extension headers. A function of its own for the verifier, like `lists6`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn upper6(context: *mut xdp_md, network_at: u32) -> u64 {
    walk(&XdpContext::new(context), (network_at & 0x1f) as usize).pack()
}

#[inline(always)]
fn walk(context: &XdpContext, network_at: usize) -> Upper {
    let Some(header) = at(context, network_at, V6_BYTES) else { return Upper::MALFORMED };
    // SAFETY: checked.
    let (payload, protocol, hop_limit): (u16, u8, u8) = unsafe { (read(header, 4), read(header, 6), read(header, 7)) };
    let payload = u16::from_be(payload) as usize;
    let mut upper = Upper { protocol, state: State::Whole, at: network_at + V6_BYTES, hop_limit };
    if !has(context, network_at + V6_BYTES + payload) {
        upper.state = State::Malformed;
    }
    let mut count = 0;
    while is_extension(upper.protocol) {
        // A bound on the offset too: a header of 2 KiB eight times is no packet.
        if count == EXTENSIONS_MAX || upper.at > UPPER_BYTES_MAX {
            upper.state = State::Malformed;
            break;
        }
        count += 1;
        let Some(extension) = at(context, upper.at & UPPER_BYTES_MAX, 8) else {
            upper.state = State::Malformed;
            break;
        };
        // SAFETY: checked.
        let (next, length, fragment): (u8, u8, u16) =
            unsafe { (read(extension, 0), read(extension, 1), read(extension, 2)) };
        if upper.protocol == 44 && u16::from_be(fragment) & 0xfff8 != 0 {
            upper.protocol = next;
            upper.state = State::Fragment;
            break;
        }
        upper.at += match upper.protocol {
            44 => 8,
            51 => (length as usize + 2) * 4,
            _ => (length as usize + 1) * 8,
        };
        upper.protocol = next;
    }
    if upper.at > UPPER_BYTES_MAX {
        upper.state = State::Malformed;
    }
    upper
}

impl Upper {
    #[inline(always)]
    fn pack(self) -> u64 {
        let state = match self.state {
            State::Whole => 0,
            State::Fragment => 1,
            State::Malformed => 2,
        };
        self.protocol as u64 | (self.hop_limit as u64) << 8 | state << 16 | (self.at as u64) << 32
    }

    #[inline(always)]
    fn unpack(word: u64) -> Self {
        let state = match word >> 16 & 3 {
            0 => State::Whole,
            1 => State::Fragment,
            _ => State::Malformed,
        };
        let at = (word >> 32) as usize & UPPER_BYTES_MAX;
        Self { protocol: word as u8, state, at, hop_limit: (word >> 8) as u8 }
    }

    const MALFORMED: Self = Self { protocol: 0, state: State::Malformed, at: 0, hop_limit: 0 };

    #[inline(always)]
    fn header(&self, context: &XdpContext, bytes: usize) -> Option<*const u8> {
        // Malformed packets have headers too, as far as they go; it is not their fault that we look.
        if self.state == State::Fragment {
            return None;
        }
        at(context, self.at, bytes)
    }

    /// The destination port, if the packet opens a TCP connection (RFC 9293 §3.5).
    #[inline(always)]
    pub fn syn(&self, context: &XdpContext) -> Option<u16> {
        if self.protocol != PROTOCOL_TCP {
            return None;
        }
        let header = self.header(context, 14)?;
        // SAFETY: checked.
        let (port, flags): (u16, u8) = unsafe { (read(header, 2), read(header, 13)) };
        (flags & 0x12 == 0x02).then_some(u16::from_be(port))
    }

    /// What a network needs to work at all and a denied neighbour or router may send: path MTU messages (RFC 1191, 8201),
    /// neighbour discovery (RFC 4861; only from the link, as its hop limit proves), multicast listener reports
    /// (RFC 3810), and what a DHCP server answers.
    #[inline(always)]
    pub fn is_needed(&self, context: &XdpContext, v6: bool) -> bool {
        let Some(header) = self.header(context, 4) else { return false };
        // SAFETY: checked.
        let (kind, code, from, to): (u8, u8, u16, u16) =
            unsafe { (read(header, 0), read(header, 1), read(header, 0), read(header, 2)) };
        let (from, to) = (u16::from_be(from), u16::from_be(to));
        // Of the other family each of these is nothing anybody needs.
        match (self.protocol, v6) {
            (PROTOCOL_ICMP, false) => kind == 3 && code == 4,
            (PROTOCOL_UDP, false) => from == 67 && to == 68,
            (PROTOCOL_ICMPV6, true) => match kind {
                2 | 130..=132 | 143 => true,
                133..=137 => self.hop_limit == 255,
                _ => false,
            },
            (PROTOCOL_UDP, true) => from == 547 && to == 546,
            _ => false,
        }
    }
}

#[inline(always)]
fn is_tag(kind: u16) -> bool {
    kind == TYPE_TAG || kind == TYPE_SERVICE_TAG
}

/// Hop-by-hop, routing, fragment, authentication, destination options (RFC 8200 §4.1).
#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60)
}

/// Whether the packet, all its pieces together, is that long. Nearly always the first piece is.
#[inline(always)]
fn has(context: &XdpContext, bytes: usize) -> bool {
    // SAFETY: the context of this packet.
    context.data_end() - context.data() >= bytes || unsafe { bpf_xdp_get_buff_len(context.ctx) } >= bytes as u64
}
