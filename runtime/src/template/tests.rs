use super::*;

fn turns(messages: &[(&str, &str)]) -> Vec<Turn> {
    messages.iter().map(|(role, content)| Turn { role: (*role).into(), content: (*content).into() }).collect()
}

fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, TextError> {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    Template::new(source, tokens)?.render(&turns(messages), None, None)
}

#[test]
fn hostile_templates_end_in_an_error_quickly() {
    let cases = [
        ("long loop", "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}"),
        ("huge repeat", "{{ 'x' * 99999999 }}"),
        (
            "doubling",
            "{% set n = namespace(x='xxxxxxxx') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        ),
        (
            "doubling lists",
            "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        ),
        (
            "doubling json",
            "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
        ),
        ("recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
        (
            "deep value",
            "{% set n = namespace(x=[]) %}{% for a in range(99999) %}{% for b in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{% endfor %}",
        ),
        (
            "deep printed",
            "{% set n = namespace(x=[]) %}{% for a in range(99999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}{{ 1/0 }}",
        ),
        (
            "deep json",
            "{% set n = namespace(x=[]) %}{% for a in range(99999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson }}{{ 1/0 }}",
        ),
        (
            "deep compare",
            "{% set n = namespace(x=[], y=[]) %}{% for a in range(49999) %}{% set n.x = [n.x] %}{% set n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}{{ 1/0 }}",
        ),
        (
            "circle",
            "{% set n = namespace() %}{% set n.x = n %}{% set n.x = n %}{{ n.x }}{{ raise_exception('end') }}",
        ),
        (
            "deep source",
            &format!(
                "{}{{{{ x }}}}{{{{ raise_exception('end') }}}}",
                "{% set x=[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]] %}".repeat(2000)
            ),
        ),
        ("hidden", "{% set n = namespace(x=[]) %}{% set n.x = []) + ([n.x] %}"),
        ("hidden tuple", "{% set n = namespace(x=[]) %}{% set (n.x, n.y) = [n, n] %}"),
        ("hidden filter", "{% set n = namespace(x=[]) %}{% set n.x | default([n]) %}{% endset %}"),
        ("range", "{{ range(999999999999) | list }}"),
        ("include", "{% include '/etc/passwd' %}"),
        ("nesting", &"{{ [".repeat(5000)),
        ("brackets", &format!("{{{{ {} }}}}", "(".repeat(100_000))),
        ("raised", "{{ raise_exception('roles must alternate') }}"),
    ];
    for (name, source) in cases {
        let start = std::time::Instant::now();
        let result = render(source, &[("user", "hi")]);
        println!("{name}: {:?} {:?}", result.as_ref().map(|r| r.len()), start.elapsed());
        assert!(matches!(result, Err(TextError::Template(_))), "{name}: {:?}", result);
    }
}
