//! What is wrong with the operator's text.

/// The name among `known` that `text` was most likely meant to be. `None`: nothing is close.
pub fn closest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in a short word, one per three letters in a longer one; a transposition counts as one.
    let slips_max = (text.chars().count() / 3).max(1);
    let lower = text.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(slips, known)| *slips <= slips_max && *slips < known.chars().count())
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}
