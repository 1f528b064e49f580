//! Amounts of money, as people read them.

/// A currency whose amounts can be formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Currency {
    code: &'static str,
    /// Digits after the point: how many of the smallest units make one (ISO 4217 calls it the minor unit).
    decimals: u32,
}

const CURRENCIES: &[Currency] = &[currency("EUR", 2), currency("GBP", 2), currency("USD", 2)];

/// Where a cent is not the hundredth part, or there is none, an amount written with two decimals is wrong by
/// powers of ten. So a currency is in a list, or it is not formatted.
#[cfg(feature = "all-currencies")]
const FURTHER_CURRENCIES: &[Currency] = &[
    currency("AUD", 2),
    currency("BHD", 3),
    currency("BRL", 2),
    currency("CAD", 2),
    currency("CHF", 2),
    currency("CNY", 2),
    currency("CZK", 2),
    currency("DKK", 2),
    currency("INR", 2),
    currency("ISK", 0),
    currency("JOD", 3),
    currency("JPY", 0),
    currency("KRW", 0),
    currency("KWD", 3),
    currency("MXN", 2),
    currency("NOK", 2),
    currency("NZD", 2),
    currency("PLN", 2),
    currency("SEK", 2),
    currency("SGD", 2),
    currency("TND", 3),
    currency("VND", 0),
    currency("ZAR", 2),
];
#[cfg(not(feature = "all-currencies"))]
const FURTHER_CURRENCIES: &[Currency] = &[];

const fn currency(code: &'static str, decimals: u32) -> Currency {
    Currency { code, decimals }
}

impl Currency {
    /// The currency of an ISO 4217 code, if this version knows it.
    pub(crate) fn named(code: &str) -> Option<Self> {
        CURRENCIES.iter().chain(FURTHER_CURRENCIES).find(|currency| currency.code == code).copied()
    }

    /// An amount in smallest units, such as `25.98 EUR`.
    pub(crate) fn format(self, amount: u64) -> String {
        let one = 10_u64.pow(self.decimals);
        let (whole, rest) = (amount / one, amount % one);
        match self.decimals {
            0 => format!("{whole} {}", self.code),
            decimals => format!("{whole}.{rest:0width$} {}", self.code, width = decimals as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_decimals_of_their_currency() {
        assert_eq!(currency("EUR", 2).format(2_598), "25.98 EUR");
        assert_eq!(currency("EUR", 2).format(5), "0.05 EUR");
        assert_eq!(currency("JPY", 0).format(2_598), "2598 JPY");
        assert_eq!(currency("KWD", 3).format(2_098), "2.098 KWD");
    }

    #[test]
    fn yen_are_known_from_the_version_with_all_currencies() {
        assert_eq!(Currency::named("JPY").is_some(), cfg!(feature = "all-currencies"));
        assert!(Currency::named("EUR").is_some());
    }
}
