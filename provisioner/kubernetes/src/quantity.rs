//! Amounts as Kubernetes writes them: `128Mi`, `1500m`, `2`, `1e3`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
];

fn read(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.as_str();
    let suffix = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix));
    let (number, factor) = suffix.map_or((text, 1.0), |(suffix, factor)| (&text[..text.len() - suffix.len()], *factor));
    let value = number.parse::<f64>().ok()? * factor;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// In whole units: bytes, cores.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be no less than zero")]
pub(crate) fn whole(quantity: &Quantity) -> Option<u64> {
    read(quantity).map(|value| value.round() as u64)
}

/// In thousandths.
pub(crate) fn millis(quantity: &Quantity) -> Option<u32> {
    let value = read(quantity)? * 1000.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be no less than zero")]
    u32::try_from(value.round() as u64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_every_spelling() {
        let quantity = |text: &str| Quantity(text.to_owned());
        for (text, bytes) in [("67108864", 67_108_864), ("64Mi", 67_108_864), ("1e3", 1000), ("128M", 128_000_000)] {
            assert_eq!(whole(&quantity(text)), Some(bytes), "{text}");
        }
        assert_eq!((millis(&quantity("1500m")), millis(&quantity("2"))), (Some(1500), Some(2000)));
        assert_eq!((whole(&quantity("much")), whole(&quantity("-1"))), (None, None));
    }
}
