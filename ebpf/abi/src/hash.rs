//! Keyed mixing of addresses. Fast enough for a packet and unpredictable without the seed, which is all it is asked for:
//! nobody may aim at a bucket or a cell. It is no cryptographic hash.

/// Two rounds of xor-shift-multiply over 64 bits: a bijection, so different words never become equal.
#[inline(always)]
pub(crate) const fn mix(word: u64) -> u64 {
    const ODD: u64 = 0xd6e8_feb8_6659_fd93;
    let word = (word ^ (word >> 32)).wrapping_mul(ODD);
    let word = (word ^ (word >> 32)).wrapping_mul(ODD);
    word ^ (word >> 32)
}

/// 128 bits into 64.
#[inline(always)]
pub(crate) const fn mix2(high: u64, low: u64) -> u64 {
    mix(mix(high) ^ low)
}
