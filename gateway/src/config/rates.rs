//! What of an upstream's `eject.success_rate` can never happen with the endpoints it has.

use std::net::SocketAddr;

use super::model::Config;
use super::places::Places;
use super::walk::join;
use crate::problem::Problem;

/// Adds nothing where names are among the endpoints: nobody knows how many addresses they have.
pub(super) fn warnings(config: &Config, places: &Places) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for (name, upstream) in &config.upstream {
        let Some(rate) = upstream.eject.as_ref().and_then(|eject| eject.success_rate.as_ref()) else { continue };
        let is_one = |address: &str| address.starts_with("unix:") || address.parse::<SocketAddr>().is_ok();
        let weighed = || upstream.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        if !weighed().all(|endpoint| is_one(&endpoint.address)) {
            continue;
        }
        let count = weighed().count();
        // Of n values one is at most so many standard deviations from their mean, when all others are equal.
        let farthest = (count as f64 - 1.0) / (count as f64).sqrt();
        let what = if count < usize::from(rate.endpoints_min) {
            format!(
                "nobody is ejected by it: it compares {} endpoints at least, and there are {count}",
                rate.endpoints_min
            )
        } else if farthest <= rate.factor {
            let factor = rate.factor;
            format!("nobody is ejected by it: of {count} endpoints none can be {factor} deviations below the mean")
        } else {
            continue;
        };
        let key = format!("{}.eject.success_rate", join("upstream", name));
        warnings.push(Problem::new(&key, what).at(places.find(&key)));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::config::tests::warnings_of;

    #[test]
    fn a_comparison_nobody_can_fail_is_told_of() {
        let check = |count: usize, rest: &str, expected: &str| {
            let endpoints: Vec<String> = (1..=count).map(|nth| format!("'10.0.0.{nth}:80'")).collect();
            let text = format!(
                "[[listener]]\naddress = '127.0.0.1:80'\n[[route]]\npath = '/**'\nupstream = 'a'\nauth = 'none'\n\
                 [upstream.a]\nendpoints = [{}{rest}\n",
                endpoints.join(", ")
            );
            let said = warnings_of(&text);
            assert_eq!(said.is_empty(), expected.is_empty(), "{said}");
            assert!(said.contains(expected), "{said}");
        };
        check(3, "]\neject = { success_rate = true }", "it compares 6 endpoints at least, and there are 3");
        check(6, "]\neject = { success_rate = true }", "");
        check(
            5,
            "]\neject = { success_rate = { endpoints_min = 5 } }",
            "of 5 endpoints none can be 1.9 deviations below",
        );
        check(3, "]\neject = { success_rate = { endpoints_min = 2, factor = 1 } }", "");
        check(1, ", 'a.internal:80']\neject = { success_rate = true }", "");
        check(3, "]\neject = { failure_percentage = true }", "");
    }
}
