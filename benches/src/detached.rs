//! Removes what a gateway pins in the kernel, however a bench ends.

use bawab::control::xdp::{Settings, detach};

/// The name of an interface, whose XDP program goes with this value. To be declared before the gateway that has it open.
pub struct Detached(pub String);

impl Drop for Detached {
    fn drop(&mut self) {
        if let Err(error) = detach(&self.0, &Settings::default().pins) {
            eprintln!("removing the XDP program from {}: {error}", self.0);
        }
    }
}
