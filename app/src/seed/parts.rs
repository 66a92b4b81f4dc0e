//! As many products as a benchmark or a trial needs: the parts of TPC-H, which are the same everywhere.
//!
//! The first N are the same whatever N is: a larger catalogue contains every smaller one.

use std::{collections::BTreeMap, iter};

use tpchgen::{
    distribution::Distributions,
    generators::{Part, PartGenerator},
    text::TextPool,
};

use super::{Product, Shelf, sentence_case};

/// TPC-H has that many parts at its scale factor 1.
const PARTS_AT_ONE: f64 = 200_000.0;
/// Comments of parts are not used, and the text that TPC-H cuts them from has 300 MB.
const TEXT_BYTES: i32 = 64 * 1024;

pub(super) fn text() -> TextPool {
    TextPool::new(TEXT_BYTES, Distributions::static_default())
}

/// A material, and below it each of its finishes: Copper, Burnished Copper.
pub(super) fn shelves() -> Vec<Shelf> {
    let mut shelves = BTreeMap::new();
    for kind in Distributions::static_default().part_types().get_values() {
        let Kind { finish, material, .. } = Kind::read(kind);
        let (slug, above) = (slug(finish, material), material.to_lowercase());
        let name = format!("{} {}", sentence_case(finish), sentence_case(material));
        let top = Shelf { slug: above.clone().into(), name: sentence_case(material).into(), parent: None };
        shelves
            .insert(slug.clone(), Shelf { slug: slug.into(), name: name.into(), parent: Some(above.clone().into()) });
        shelves.insert(above, top);
    }
    shelves.into_values().collect()
}

pub(super) fn catalogue(text: &TextPool, count: u32) -> impl Iterator<Item = Product> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    // One more than wanted, because a scale factor is a rounded number.
    let factor = (count as f64 + 1.0) / PARTS_AT_ONE;
    let parts =
        PartGenerator::new_with_distributions_and_text_pool(factor, 1, 1, Distributions::static_default(), text);
    let mut parts = parts.iter();
    iter::from_fn(move || parts.next()).take(count).map(|part| product(&part))
}

/// Such as PROMO BURNISHED COPPER.
struct Kind<'a> {
    class: &'a str,
    finish: &'a str,
    material: &'a str,
}

impl<'a> Kind<'a> {
    fn read(text: &'a str) -> Self {
        let mut words = text.split(' ');
        let mut next = || words.next().unwrap_or_default();
        Self { class: next(), finish: next(), material: next() }
    }
}

fn slug(finish: &str, material: &str) -> String {
    format!("{finish}-{material}").to_lowercase()
}

fn product(part: &Part<'_>) -> Product {
    let Kind { class, finish, material } = Kind::read(part.p_type);
    let brand = part.p_brand.to_string().replace('#', " ");
    let container = part.p_container.to_lowercase();
    Product {
        sku: format!("PART-{:07}", part.p_partkey),
        name: sentence_case(&part.p_name.to_string()),
        description: format!(
            "{} {} {}, size {}, in a {container}. Made for {brand} by {}.",
            sentence_case(class),
            finish.to_lowercase(),
            material.to_lowercase(),
            part.p_size,
            part.p_mfgr.to_string().replace('#', " ")
        ),
        brand: brand.into(),
        category: slug(finish, material).into(),
        price_cents: part.p_retailprice.0,
        hidden: false,
        on_hand: i32::try_from(100 + part.p_partkey * 37 % 900).unwrap_or(100),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_exactly_as_many_as_wanted_and_a_smaller_catalogue_is_the_beginning_of_a_larger_one() {
        let text = text();
        let large: Vec<Product> = catalogue(&text, 100_000).collect();
        for count in [1, 7, 1_000, 33_333, 99_999] {
            let small: Vec<Product> = catalogue(&text, count).collect();
            assert_eq!(small.len(), usize::try_from(count).unwrap());
            assert_eq!(small[..], large[..small.len()], "{count}");
        }
        assert_eq!(large.len(), 100_000);
        let distinct = |of: fn(&Product) -> &str| large.iter().map(of).collect::<HashSet<_>>().len();
        assert_eq!((distinct(|part| &part.sku), distinct(|part| &part.name)), (100_000, 100_000));
        assert_eq!((distinct(|part| &part.brand), distinct(|part| &part.category)), (25, 25));
    }

    #[test]
    fn the_first_part_is_that_of_the_specification() {
        let part = catalogue(&text(), 1).next().unwrap();
        assert_eq!((part.name.as_str(), &*part.brand), ("Goldenrod lavender spring chocolate lace", "Brand 13"));
        assert_eq!((&*part.category, part.price_cents), ("burnished-copper", 90_100));
        assert_eq!(
            part.description,
            "Promo burnished copper, size 7, in a jumbo pkg. Made for Brand 13 by Manufacturer 1."
        );
    }

    #[test]
    fn every_part_has_a_shelf_and_every_shelf_its_material_above() {
        let shelves = shelves();
        let slugs: HashSet<&str> = shelves.iter().map(|shelf| shelf.slug.as_ref()).collect();
        assert_eq!((shelves.len(), slugs.len()), (30, 30));
        assert!(shelves.iter().filter_map(|shelf| shelf.parent.as_deref()).all(|parent| slugs.contains(parent)));
        assert!(catalogue(&text(), 5_000).all(|part| slugs.contains(part.category.as_ref())));
    }
}
