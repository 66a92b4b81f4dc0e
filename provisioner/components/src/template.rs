//! Renders the configuration templates that are embedded in this crate.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, UndefinedBehavior, Value};

/// Renders `source`. A name that the context does not hold is an error, never an empty string in a configuration.
///
/// # Panics
///
/// If the template does not render: it is part of this program, takes the same names for every manifest, and a test
/// renders each one, so this is a defect of the program and not of anything that people wrote.
pub(crate) fn render(name: &str, source: &str, context: Value) -> String {
    match try_render(name, source, context) {
        Ok(text) => text,
        Err(error) => panic!("render the embedded template {name}: {error:#}"),
    }
}

fn try_render(name: &str, source: &str, context: Value) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
    environment.render_named_str(name, source, context)
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    #[test]
    fn values_are_put_in_as_they_are() {
        assert_eq!(
            render("a.conf.j2", "limit {{ n }} '{{ t }}';\n", context! { n => 10, t => "<&>" }),
            "limit 10 '<&>';\n"
        );
    }

    #[test]
    #[should_panic(expected = "render the embedded template a.conf.j2: undefined value")]
    fn an_unknown_name_is_a_defect() {
        render("a.conf.j2", "{{ unknown }}", context! {});
    }
}
