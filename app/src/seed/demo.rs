//! The demo catalogue: the same products every time, made from word lists.

use super::{
    Product, Shelf, sentence_case,
    words::{BRANDS, CATEGORIES, COLOURS, Category},
};
use crate::store::products::PROBE;

pub(super) fn shelves() -> Vec<Shelf> {
    let shelf = |category: &Category| Shelf { slug: category.slug.into(), name: category.name.into(), parent: None };
    CATEGORIES.iter().map(shelf).collect()
}

pub(super) fn catalogue() -> Vec<Product> {
    let goods = CATEGORIES.iter().flat_map(|category| (0..category.nouns.len()).map(move |noun| (category, noun)));
    let mut products: Vec<Product> =
        goods.flat_map(|(category, noun)| (0..BRANDS.len()).map(move |brand| product(category, noun, brand))).collect();
    // Brands and nouns mix, so that the first pages show more than one shelf. 7919 is prime and does not divide the count.
    let count = products.len();
    let mut order: Vec<usize> = (0..count).map(|position| position * 7919 % count).collect();
    let mut taken: Vec<Option<Product>> = products.drain(..).map(Some).collect();
    products.extend(order.drain(..).filter_map(|index| taken[index].take()));
    products.push(probe());
    products
}

/// Orders of this product prove the write path on a live shop; it is never listed and never runs out.
fn probe() -> Product {
    Product {
        sku: PROBE.to_owned(),
        name: "Probe".to_owned(),
        description: "Ordered by health probes; not for sale.".to_owned(),
        brand: "Probe".into(),
        category: CATEGORIES[0].slug.into(),
        price_cents: 100,
        hidden: true,
        on_hand: 1_000_000_000,
    }
}

fn product(category: &'static Category, noun: usize, brand: usize) -> Product {
    let (name, base_euros) = category.nouns[noun];
    let maker = &BRANDS[brand];
    let material = category.materials[(noun * 5 + brand * 3) % category.materials.len()];
    let colour = COLOURS[(noun * 7 + brand * 11) % COLOURS.len()];
    let use_case = category.uses[(noun + brand) % category.uses.len()];
    let euros = base_euros * maker.price_percent / 100 + i64::try_from((noun * 3 + brand * 2) % 5).unwrap_or(0);
    Product {
        sku: format!("{}-{}-{:02}", maker.code, category.code, noun + 1),
        name: format!("{} {material} {name}, {colour}", maker.name),
        description: format!(
            "{} in {colour}, made by {} from {}. {use_case}",
            sentence_case(name),
            maker.name,
            material.to_lowercase()
        ),
        brand: maker.name.into(),
        category: category.slug.into(),
        price_cents: euros.max(3) * 100 - 10,
        hidden: false,
        on_hand: i32::try_from(40 + (noun * 37 + brand * 53) % 160).unwrap_or(40),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_catalogue_is_large_distinct_and_the_same_every_time() {
        let products = catalogue();
        assert!(products.len() > 1_000, "{}", products.len());
        let distinct = |of: fn(&Product) -> &str| products.iter().map(of).collect::<HashSet<_>>().len();
        assert_eq!(distinct(|product| &product.sku), products.len());
        assert_eq!(distinct(|product| &product.name), products.len());
        assert_eq!(products, catalogue());
    }

    #[test]
    fn one_product_is_hidden_and_it_is_the_probe() {
        let products = catalogue();
        let hidden: Vec<&Product> = products.iter().filter(|product| product.hidden).collect();
        assert_eq!(hidden, [&probe()]);
        assert_eq!(hidden[0].on_hand, 1_000_000_000);
    }

    #[test]
    fn products_read_like_products() {
        for product in catalogue().iter().filter(|product| !product.hidden) {
            assert!((290..200_000).contains(&product.price_cents) && product.price_cents % 100 == 90, "{product:?}");
            assert!(product.description.ends_with('.') && product.description.len() > 40, "{product:?}");
            assert!((40..200).contains(&product.on_hand), "{product:?}");
        }
        let first = &catalogue()[..20];
        assert!(
            first.iter().map(|product| &product.category).collect::<HashSet<_>>().len() > 4,
            "the first page is mixed"
        );
    }
}
