//! Chance that can be repeated: every scenario that uses it prints its seed first.

use anyhow::{Context, Result};

/// A stream of pseudo-random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seed that `MARGAY_SEED` names, else one from the system; printed, with how to repeat it.
    ///
    /// # Errors
    /// `MARGAY_SEED` is no number, or the system has no randomness.
    pub fn choose(scenario: &str) -> Result<Self> {
        let seed = match std::env::var("MARGAY_SEED") {
            Ok(text) => text
                .parse()
                .with_context(|| format!("MARGAY_SEED={text}: not a number"))?,
            Err(_) => u64::from_str_radix(&crate::run::random_hex(4)?, 16)
                .context("read a random number")?,
        };
        say(&format!(
            "{scenario}: seed {seed} (MARGAY_SEED={seed} repeats it)"
        ));
        Ok(Self(seed))
    }

    /// The next number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound).unwrap_or(0)
    }
}

/// A step of a scenario, with the time it took.
pub fn step<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    say(&format!("== {name}"));
    let result = work();
    say(&format!("== {name}: {:.1?}", start.elapsed()));
    result
}

#[expect(
    clippy::print_stdout,
    reason = "what a scenario does is part of its output"
)]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_below_the_bound() {
        let draw = |seed| {
            let mut seed = Seed(seed);
            (0..100).map(|_| seed.below(7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        assert!(draw(5).iter().all(|number| *number < 7));
        assert_eq!(Seed(1).below(0), 0);
    }
}
