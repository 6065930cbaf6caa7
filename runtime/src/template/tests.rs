use super::*;

fn turns(messages: &[(&str, &str)]) -> Vec<Turn> {
    messages
        .iter()
        .map(|(role, content)| Turn {
            role: (*role).into(),
            content: Content::Text((*content).into()),
            ..Turn::default()
        })
        .collect()
}

fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, TextError> {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    Template::new(source, tokens)?.render(turns(messages), None, None)
}

/// The cases of `scripts/golden/templates.py`, rendered by Hugging Face transformers.
#[test]
fn templates_render_as_in_transformers() {
    let golden = include_str!("../../tests/fixtures/templates.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let tokens: BTreeMap<String, String> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let messages: Vec<Turn> = serde_json::from_value(case["messages"].clone()).unwrap();
        let mode = match case["mode"].as_str() {
            None => None,
            Some("instant") => Some(Mode::Instant),
            Some("thinking") => Some(Mode::Thinking),
            Some("contemplating") => Some(Mode::Contemplating),
            Some(other) => panic!("mode {other}"),
        };
        let tools = Some(case["tools"].clone()).filter(|tools| !tools.is_null());
        let template = Template::new(case["template"].as_str().unwrap(), tokens.clone());
        let ours = template.and_then(|template| template.render(messages, tools, mode));
        let same = match (&ours, case["error"].as_str()) {
            (Ok(ours), None) => case["rendered"] == **ours,
            (Err(TextError::Template(ours)), Some(theirs)) => ours.contains(theirs),
            _ => false,
        };
        if !same {
            wrong.push(format!("{}: {ours:#?}\nbut {:#}", case["name"], case["rendered"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_mode_is_what_a_template_calls_it() {
    let source = "{{ enable_thinking }} {{ thinking is defined and thinking }} {{ reasoning_strength }} {{ reasoning_effort }}";
    let template = Template::new(source, BTreeMap::new()).unwrap();
    for (mode, expected) in [
        (None, " False  "),
        (Some(Mode::Instant), "False False low low"),
        (Some(Mode::Thinking), "True True high medium"),
        (Some(Mode::Contemplating), "True True xhigh high"),
    ] {
        assert_eq!(template.render(turns(&[("user", "hi")]), None, mode).unwrap(), expected, "{mode:?}");
    }
}

#[test]
fn iterable_is_what_it_is_in_jinja() {
    let source = "{% for x in [tools, none, messages, 'ab', {}, [], 3, true, missing] %}{{ x is iterable }} {% endfor %}";
    let rendered = render(source, &[("user", "hi")]);
    assert_eq!(rendered.unwrap(), "False False True True True True False False True ");
}

#[test]
fn hostile_templates_end_in_an_error_quickly() {
    /// Ends what would otherwise be harmless.
    const END: &str = "{{ raise_exception('end') }}";
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
        ("chain of attributes", &format!("{{{{ x{} }}}}", ".a".repeat(64000))),
        ("chain of filters", &format!("{{{{ x{} }}}}{END}", "|e".repeat(64000))),
        ("chain of sums", &format!("{{{{ 1{} }}}}{END}", "+1".repeat(64000))),
        ("chain of lists", &format!("{{{{ []{} }}}}{END}", "+[]".repeat(42000))),
        ("chain of nots", &format!("{{{{ {}1 }}}}{END}", "not ".repeat(30000))),
        ("chain of signs", &format!("{{{{ {}1 }}}}{END}", "-".repeat(120_000))),
        ("chain of conditions", &format!("{{{{ 1{} }}}}{END}", " if 1 else 2".repeat(10000))),
        ("chain of blocks", &format!("{}{}{END}", "{%if 1%}".repeat(7000), "{%endif%}".repeat(7000))),
        ("chain of elifs", &format!("{{%if 0%}}{}{{%endif%}}{END}", "{%elif 0%}".repeat(12000))),
        ("range", "{{ range(999999999999) | list }}"),
        ("include", "{% include '/etc/passwd' %}"),
        ("nesting", &"{{ [".repeat(5000)),
        ("brackets", &format!("{{{{ {} }}}}", "(".repeat(100_000))),
        ("raised", "{{ raise_exception('roles must alternate') }}"),
    ];
    for (name, source) in cases {
        let result = render(source, &[("user", "hi")]);
        let quick = matches!(&result, Err(TextError::Template(problem)) if problem != TOO_SLOW);
        assert!(quick, "{name}: {result:?}");
    }
}

#[test]
fn a_template_that_runs_away_is_left_behind() {
    // A view of a view of a view: reading it takes time that grows with the square, and hardly any fuel.
    let source = format!("{{{{ [1]{} | list }}}}", "[:]".repeat(6000));
    let mut template = Template::new(&source, BTreeMap::new()).unwrap();
    template.time_max = Duration::from_millis(1);
    let too_slow = Err(TextError::Template(TOO_SLOW.into()));
    assert_eq!(template.render(Vec::new(), None, None), too_slow);
    template.time_max = TIME_MAX;
    assert_eq!(template.render(Vec::new(), None, None), too_slow, "and no second one is started");
}
