//! `bawab version`: what this binary is. Nothing of the folder or the history it was built from, so that the same source
//! builds the same binary.

use std::process::ExitCode;

use super::answer;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn main() -> ExitCode {
    answer(&text())
}

fn text() -> String {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let rust = env!("CARGO_PKG_RUST_VERSION");
    format!("bawab {VERSION}\nbuild: {build}\ntarget: {target}\nrust: {rust} or newer\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_line_is_name_and_version() {
        let text = super::text();
        assert_eq!(text.lines().next(), Some(concat!("bawab ", env!("CARGO_PKG_VERSION"))));
        assert_eq!(text.lines().count(), 4);
    }
}
