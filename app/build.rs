fn main() {
    // `sqlx::migrate!` reads the folder at compile time; cargo does not see a new file in it by itself.
    println!("cargo:rerun-if-changed=migrations");
}
