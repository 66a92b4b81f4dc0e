//! What staff does. Reading takes the scope `admin:read` of a token, changing `admin:write`.

pub(crate) mod analytics;
pub(crate) mod dead_letters;
pub(crate) mod media;
pub(crate) mod orders;
pub(crate) mod products;
pub(crate) mod records;
pub(crate) mod stock;
pub(crate) mod users;
