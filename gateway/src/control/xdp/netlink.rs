//! Which XDP program an interface has, asked by rtnetlink (`RTM_GETLINK`): bpf(2) does not tell.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROGRAM_ID: u16 = 4;
const HEADER_BYTES: usize = 16;
const INTERFACE_BYTES: usize = 16;
/// The flags in the two highest bits of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;
/// The answer for an interface with many virtual functions is a few KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) program: u32,
    /// By the driver, not by the stack behind it.
    pub(super) native: bool,
}

/// The program that the interface of this number has, if any.
pub(super) fn attached(interface: u32) -> io::Result<Option<Attached>> {
    // The protocol of number 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut request = Vec::with_capacity(HEADER_BYTES + INTERFACE_BYTES);
    request.extend_from_slice(&((HEADER_BYTES + INTERFACE_BYTES) as u32).to_ne_bytes());
    request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and sender.
    request.extend_from_slice(&[0; 8]);
    // Family, padding and type of the interface, then its number, flags and their mask.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&interface.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let (bytes, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    read(&answer[..bytes])
}

fn read(answer: &[u8]) -> io::Result<Option<Attached>> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(NLMSG_ERROR) {
        let code = word(answer.get(HEADER_BYTES..).unwrap_or_default()).unwrap_or(0).cast_signed();
        return Err(io::Error::from_raw_os_error(-code));
    }
    let Some(attributes) = answer.get(HEADER_BYTES + INTERFACE_BYTES..) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let Some(xdp) = find(attributes, IFLA_XDP) else { return Ok(None) };
    let program = find(xdp, IFLA_XDP_PROGRAM_ID).and_then(word).unwrap_or(0);
    // 0 none, 1 by the driver, 2 by the stack, 3 by the hardware, 4 several of these.
    let attached = find(xdp, IFLA_XDP_ATTACHED).and_then(|bytes| bytes.first().copied()).unwrap_or(0);
    Ok((attached != 0).then_some(Attached { program, native: attached != 2 }))
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

/// The content of the first attribute of that type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if u16::from_ne_bytes([k0, k1]) & TYPE_MASK == wanted {
            return attributes.get(4..length);
        }
        if length < 4 {
            return None;
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = ((content.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answer(attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + INTERFACE_BYTES];
        bytes[4] = 16;
        bytes.extend(attributes.concat());
        bytes
    }

    #[test]
    fn a_program_is_found_behind_other_attributes() {
        let xdp = [attribute(IFLA_XDP_ATTACHED, &[1]), attribute(IFLA_XDP_PROGRAM_ID, &77_u32.to_ne_bytes())].concat();
        let found = read(&answer(&[attribute(3, b"eth0\0"), attribute(IFLA_XDP | 0x8000, &xdp)])).unwrap();
        assert_eq!(found, Some(Attached { program: 77, native: true }));
    }

    #[test]
    fn an_interface_without_a_program_has_none() {
        let none = attribute(IFLA_XDP_ATTACHED, &[0]);
        assert_eq!(read(&answer(&[attribute(IFLA_XDP, &none)])).unwrap(), None);
        assert_eq!(read(&answer(&[])).unwrap(), None);
    }

    #[test]
    fn an_answer_cut_anywhere_is_no_panic() {
        let xdp = [attribute(IFLA_XDP_ATTACHED, &[2]), attribute(IFLA_XDP_PROGRAM_ID, &[1, 2, 3, 4])].concat();
        let whole = answer(&[attribute(3, b"eth0\0"), attribute(IFLA_XDP, &xdp)]);
        for end in 0..whole.len() {
            _ = read(&whole[..end]);
        }
    }

    #[test]
    fn loopback_has_an_answer() {
        // Number 1 in every namespace.
        assert_eq!(attached(1).unwrap(), None);
        assert_eq!(attached(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
