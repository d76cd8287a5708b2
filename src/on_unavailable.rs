//! What becomes of demands while the store cannot be reached. It knows neither quotas nor limiter.

/// What becomes of demands while the store cannot be reached.
///
/// It is set for a limiter ([`LimiterBuilder::on_unavailable`]), and for single quotas that differ
/// ([`Quota::on_unavailable`]).
///
/// ```
/// use tower_throttle::OnUnavailable;
///
/// // Eight processes, each with an eighth of every limit.
/// let on_unavailable = OnUnavailable::local(1.0 / 8.0);
/// ```
///
/// [`LimiterBuilder::on_unavailable`]: crate::limiter::LimiterBuilder::on_unavailable
/// [`Quota::on_unavailable`]: crate::Quota::on_unavailable
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum OnUnavailable {
    /// They fail with [`Throttled::Store`](crate::Throttled::Store).
    #[default]
    Fail,
    /// They pass, uncounted.
    Allow,
    /// They are throttled within this process, by a share of every limit: see
    /// [`local`](Self::local).
    #[non_exhaustive]
    Local {
        /// The share: with eight processes, an eighth is safe.
        share: f64,
    },
}

impl OnUnavailable {
    /// Throttles within this process, by a share (above 0, up to 1) of every limit.
    pub fn local(share: f64) -> Self {
        Self::Local { share }
    }

    /// # Errors
    /// A share that makes no sense.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Local { share } if !(*share > 0.0 && *share <= 1.0) => {
                Err("the local share must be above 0 and at most 1")
            }
            _ => Ok(()),
        }
    }

    /// What becomes of a demand on quotas of which one has this and one has `other`: the stricter.
    /// All that are local are asked, so their shares make no difference.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fail, _) | (_, Self::Fail) => Self::Fail,
            (local @ Self::Local { .. }, _) | (_, local) => local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_stricter_decides() {
        let (fail, allow, local) =
            (OnUnavailable::Fail, OnUnavailable::Allow, OnUnavailable::local(0.5));
        for (one, other, decides) in
            [(fail, allow, fail), (fail, local, fail), (local, allow, local), (allow, allow, allow)]
        {
            assert_eq!(one.and(other), decides);
            assert_eq!(other.and(one), decides);
        }
    }
}
