use super::*;

/// Name, template, script, and its parts. A script that ends in `…` was cut off, others the model ended.
type Case = (&'static str, &'static str, &'static str, &'static str);

const CASES: &[Case] = &[
    (
        "nothing declared",
        "",
        "<think>a <|eom|> {\"name\": \"stop\"}\n",
        "T(<think>a <|eom|> {\"name\": \"stop\"}\n)",
    ),
    // Muse
    (
        "muse: reasoning, answer",
        MUSE,
        " to=self«<|message|>»Hm. \n«<|eom|>»«<|start|>»assistant to=user«<|message|>» Yes.\n«<|eot|>»",
        "R(Hm. \n) T( Yes.\n)",
    ),
    ("muse: answer at once", MUSE, " to=user«<|message|>»Yes.", "T(Yes.)"),
    ("muse: nobody named", MUSE, "«<|message|>»Yes.", "T(Yes.)"),
    (
        "muse: no space after the role",
        MUSE,
        "«<|start|>»assistantto=self«<|message|>»so«<|eom|>»«<|start|>»assistantto=user«<|message|>»Yes.",
        "R(so) T(Yes.)",
    ),
    ("muse: no framing", MUSE, "Just an answer, to=self.", "T(Just an answer, to=self.)"),
    ("muse: markers typed", MUSE, " to=user«<|message|>»a <|eom|><|start|> b", "T(a <|eom|><|start|> b)"),
    (
        "muse: calls",
        MUSE,
        " to=self«<|message|>»Two.«<|eom|>»«<|start|>»assistant to=weather.get«<|message|>»<atem:function_calls>\n\
         <atem:invoke name=\"weather.get\">\n<atem:parameter name=\"city\"> São \"Paulo\" & <b>\n</atem:parameter>\n\
         <atem:parameter name=\"days\">3</atem:parameter>\n<atem:parameter name=\"metric\">true</atem:parameter>\n\
         <atem:parameter name=\"at\">{\"x\": [1, \"</b>\"]}</atem:parameter>\n</atem:invoke>\n</atem:function_calls>\
         «<|eom|>»«<|start|>»assistant to=stop.stop«<|message|>»<atem:function_calls><atem:invoke name=\"stop.stop\">\
         </atem:invoke></atem:function_calls>",
        "R(Two.) C(weather.get {\"city\":\" São \\\"Paulo\\\" & <b>\\n\",\"days\":3,\"metric\":true,\"at\":{\"x\":[1,\"</b>\"]}}) \
         C(stop {})",
    ),
    (
        "muse: a call quoted in reasoning and in the answer",
        MUSE,
        " to=self«<|message|>»<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>\
         «<|eom|>»«<|start|>»assistant to=user«<|message|>»<atem:function_calls>",
        "R(<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>) T(<atem:function_calls>)",
    ),
    (
        "muse: another tool than the message is to",
        MUSE,
        " to=weather.get«<|message|>»<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>",
        "T(<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>)",
    ),
    (
        "muse: a value with a tag in it",
        MUSE,
        " to=weather.get«<|message|>»<atem:function_calls><atem:invoke name=\"weather.get\"><atem:parameter name=\"city\">\
         a</atem:p</atem:parameter></atem:invoke></atem:function_calls>",
        "T(<atem:function_calls><atem:invoke name=\"weather.get\"><atem:parameter name=\"city\">\
         a</atem:p</atem:parameter></atem:invoke></atem:function_calls>)",
    ),
    (
        "muse: cut off",
        MUSE,
        " to=stop«<|message|>»<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>…",
        "T(<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>)",
    ),
    ("muse: cut off in a header", MUSE, " to=self«<|message|>»a«<|eom|>»«<|start|>»assistant to=us…", "R(a)"),
    ("muse: no such tool", MUSE, " to=rm«<|message|>»<atem:function_calls>", "T(<atem:function_calls>)"),
    (
        "muse: another's turn",
        MUSE,
        " to=user«<|message|>»a«<|eom|>»«<|start|>»tool weather.get«<|message|>»sunny",
        "T(a)",
    ),
    (
        "muse: a token inside a call",
        MUSE,
        " to=stop«<|message|>»<atem:function_calls>«<|message|>»<atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>",
        "T(<atem:function_calls><atem:invoke name=\"stop\"></atem:invoke></atem:function_calls>)",
    ),
    // Hermes, Qwen 2.5 and 3
    ("hermes: text", HERMES, "a\n b \n", "T(a\n b \n)"),
    ("hermes: reasoning", HERMES, "«<think>»\nso\n\n so\n«</think>»\n\nYes. \n", "R(so\n\n so) T(Yes. \n)"),
    ("hermes: no thought", HERMES, "\n«<think>»\n\n«</think>»\n\nYes.", "T(Yes.)"),
    ("hermes: reasoning that never ends", HERMES, "«<think>»so…", "R(so)"),
    ("hermes: typed markers", HERMES, "a <think>b</think> <tool_call>", "T(a <think>b</think> <tool_call>)"),
    (
        "hermes: calls",
        HERMES,
        "«<think>»x«</think>»Both:\n«<tool_call>»\n{\"name\": \"weather.get\", \"arguments\": {\"city\": \"Paris </tool_call>\", \"days\": 2}}\
         \n«</tool_call>»\n«<tool_call>»\n{\"name\":\"stop\"}\n«</tool_call>»",
        "R(x) T(Both:) C(weather.get {\"city\":\"Paris </tool_call>\",\"days\":2}) C(stop {})",
    ),
    (
        "hermes: arguments as text, a number as text",
        HERMES,
        "«<tool_call>»{\"name\":\"weather.get\",\"arguments\":\"{\\\"city\\\":\\\"a\\\",\\\"days\\\":\\\"2\\\"}\"}«</tool_call>»",
        "C(weather.get {\"city\":\"a\",\"days\":2})",
    ),
    (
        "hermes: text after a call",
        HERMES,
        "«<tool_call>»{\"name\":\"stop\"}«</tool_call>»\nDone.",
        "C(stop {}) T(Done.)",
    ),
    (
        "hermes: no such tool",
        HERMES,
        "a «<tool_call>»{\"name\":\"rm\"}«</tool_call>» b",
        "T(a{\"name\":\"rm\"}b)",
    ),
    (
        "hermes: broken JSON",
        HERMES,
        "«<tool_call>»{\"name\":\"stop\", \"arg«</tool_call>»",
        "T({\"name\":\"stop\", \"arg)",
    ),
    (
        "hermes: cut off",
        HERMES,
        "Hi «<tool_call>»{\"name\":\"stop\",\"arguments\":{}}…",
        "T(Hi{\"name\":\"stop\",\"arguments\":{}})",
    ),
    (
        "hermes: not closed",
        HERMES,
        "«<tool_call>»{\"name\":\"stop\",\"arguments\":{}}",
        "T({\"name\":\"stop\",\"arguments\":{}})",
    ),
    (
        "hermes: a wrong type",
        HERMES,
        "«<tool_call>»{\"name\":\"weather.get\",\"arguments\":{\"city\":\"a\",\"days\":\"soon\"}}«</tool_call>»",
        "T({\"name\":\"weather.get\",\"arguments\":{\"city\":\"a\",\"days\":\"soon\"}})",
    ),
    (
        "hermes: what is required is missing",
        HERMES,
        "«<tool_call>»{\"name\":\"weather.get\",\"arguments\":{}}«</tool_call>»",
        "T({\"name\":\"weather.get\",\"arguments\":{}})",
    ),
    (
        "hermes: two names",
        HERMES,
        "«<tool_call>»{\"name\":\"a\",\"name\":\"stop\"}«</tool_call>»",
        "T({\"name\":\"a\",\"name\":\"stop\"})",
    ),
    (
        "hermes: a key twice",
        HERMES,
        "«<tool_call>»{\"name\":\"weather.get\",\"arguments\":{\"city\":\"a\",\"at\":{\"x\":1,\"x\":2}}}«</tool_call>»",
        "T({\"name\":\"weather.get\",\"arguments\":{\"city\":\"a\",\"at\":{\"x\":1,\"x\":2}}})",
    ),
    (
        "hermes: a key twice in arguments as text",
        HERMES,
        "«<tool_call>»{\"name\":\"weather.get\",\"arguments\":\"{\\\"city\\\":\\\"a\\\",\\\"city\\\":\\\"b\\\"}\"}«</tool_call>»",
        "T({\"name\":\"weather.get\",\"arguments\":\"{\\\"city\\\":\\\"a\\\",\\\"city\\\":\\\"b\\\"}\"})",
    ),
    (
        "hermes: a call quoted in reasoning",
        HERMES,
        "«<think>»«<tool_call>»{\"name\":\"stop\"}«</tool_call>»«</think>»No.",
        "R(<tool_call>{\"name\":\"stop\"}</tool_call>) T(No.)",
    ),
    ("hermes: closed, never opened", HERMES, "a «</think>»b«</tool_call>» c", "T(a b c)"),
    (
        "hermes: a marker in a string",
        HERMES,
        "«<tool_call>»{\"name\":\"weather.get\",\"arguments\":{\"city\":\"«<think>»\"}}«</tool_call>»",
        "C(weather.get {\"city\":\"<think>\"})",
    ),
    // Qwen3-Coder and 3.5
    (
        "function tags: a call",
        FUNCTION_TAGS,
        "«<think>»\nx\n«</think>»\n\n«<tool_call>»\n<function=weather.get>\n<parameter=city>\n\n a<b>\nc \n</parameter>\n<parameter=days>\n3\n\
         </parameter>\n<parameter=metric>\nFalse\n</parameter>\n</function>\n«</tool_call>»",
        "R(x) C(weather.get {\"city\":\"\\n a<b>\\nc \",\"days\":3,\"metric\":false})",
    ),
    (
        "function tags: a value with a tag in it",
        FUNCTION_TAGS,
        "«<tool_call>»<function=weather.get><parameter=city>a<parameter=b>c</parameter></function>«</tool_call>»",
        "T(<function=weather.get><parameter=city>a<parameter=b>c</parameter></function>)",
    ),
    (
        "function tags: a parameter twice",
        FUNCTION_TAGS,
        "«<tool_call>»<function=weather.get><parameter=city>a</parameter><parameter=city>b</parameter></function>«</tool_call>»",
        "T(<function=weather.get><parameter=city>a</parameter><parameter=city>b</parameter></function>)",
    ),
    (
        "function tags: not closed inside",
        FUNCTION_TAGS,
        "«<tool_call>»<function=weather.get><parameter=city>a«</tool_call>»",
        "T(<function=weather.get><parameter=city>a)",
    ),
    (
        "function tags: text behind",
        FUNCTION_TAGS,
        "«<tool_call>»<function=stop></function>!«</tool_call>»",
        "T(<function=stop></function>!)",
    ),
    // GLM
    (
        "glm: a call",
        GLM,
        "«<think>»x«</think>»\n«<tool_call>»weather.get\n«<arg_key>»city«</arg_key>»\n«<arg_value>»a </arg_value>\n«</arg_value>»\n\
         «<arg_key>»days«</arg_key>»\n«<arg_value>»4«</arg_value>»\n«</tool_call>»",
        "R(x) C(weather.get {\"city\":\"a </arg_value>\\n\",\"days\":4})",
    ),
    ("glm: no arguments", GLM, "«<tool_call>»stop«</tool_call>»", "C(stop {})"),
    (
        "glm: a value that begins inside another",
        GLM,
        "«<tool_call>»weather.get«<arg_key>»city«</arg_key>»«<arg_value>»a«<arg_value>»b«</arg_value>»«</tool_call>»",
        "T(weather.get<arg_key>city</arg_key><arg_value>a<arg_value>b</arg_value>)",
    ),
    (
        "glm: cut off",
        GLM,
        "«<tool_call>»weather.get\n«<arg_key>»city«</arg_key>»«<arg_value>»Pa…",
        "T(weather.get\n<arg_key>city</arg_key><arg_value>Pa)",
    ),
    // Gemma 4
    (
        "gemma: reasoning, a call",
        GEMMA,
        "«<|channel>»thought\nso\n«<channel|>»«<|tool_call>»call:weather.get{city:«<|\"|>»a, {\"b}<|\"|>«<|\"|>»,days:2,metric:true,\
         at:{x:[1,«<|\"|>»y«<|\"|>»],«<|\"|>»z z«<|\"|>»:{}}}«<tool_call|>»«<|tool_response>»response",
        "R(so) C(weather.get {\"city\":\"a, {\\\"b}<|\\\"|>\",\"days\":2,\"metric\":true,\"at\":{\"x\":[1,\"y\"],\"z z\":{}}})",
    ),
    ("gemma: no thought", GEMMA, "«<|channel>»thought\n«<channel|>»Hi", "T(Hi)"),
    ("gemma: another channel", GEMMA, "«<|channel>»though not\nso«<channel|>»Hi", "R(though not\nso) T(Hi)"),
    ("gemma: a short channel", GEMMA, "«<|channel>»tho«<channel|>»Hi", "R(tho) T(Hi)"),
    (
        "gemma: a quote that is not closed",
        GEMMA,
        "«<|tool_call>»call:weather.get{city:«<|\"|>»a}«<tool_call|>»",
        "T(call:weather.get{city:a})",
    ),
    (
        "gemma: a bare string",
        GEMMA,
        "«<|tool_call>»call:weather.get{city:a}«<tool_call|>»",
        "T(call:weather.get{city:a})",
    ),
    (
        "gemma: a channel inside a call",
        GEMMA,
        "«<|tool_call>»call:weather.get{city:«<|\"|>»a«<|channel>»b«<|\"|>»}«<tool_call|>»",
        "T(call:weather.get{city:ab})",
    ),
    // Llama 3
    (
        "llama: bare",
        LLAMA,
        "\n {\"name\": \"weather.get\", \"parameters\": {\"city\": \"a\", \"days\": \"7\"}}",
        "C(weather.get {\"city\":\"a\",\"days\":7})",
    ),
    (
        "llama: several, tagged",
        LLAMA,
        "«<|python_tag|>»{\"type\": \"function\", \"name\": \"stop\", \"parameters\": {}}; {\"name\": \"stop\", \"parameters\": {}}",
        "C(stop {}) C(stop {})",
    ),
    ("llama: other JSON", LLAMA, "{\"city\": {\"name\": \"stop\"}}", "T({\"city\": {\"name\": \"stop\"}})"),
    (
        "llama: a name and no call",
        LLAMA,
        "{\"name\": \"Bo\", \"age\": 3} ",
        "T({\"name\": \"Bo\", \"age\": 3} )",
    ),
    ("llama: text first", LLAMA, "So: {\"name\": \"stop\"}", "T(So: {\"name\": \"stop\"})"),
    ("llama: text behind", LLAMA, "{\"name\": \"stop\"} now", "T({\"name\": \"stop\"} now)"),
    ("llama: cut off", LLAMA, "{\"name\": \"stop\"}…", "T({\"name\": \"stop\"})"),
    ("llama: code", LLAMA, "«<|python_tag|>»print(1)", "T(print(1))"),
];

#[test]
fn every_format_is_read() {
    let mut wrong = Vec::new();
    for (name, template, script, expected) in CASES {
        let protocol = Protocol::declared(template, token);
        let (script, complete) = script.strip_suffix('…').map_or((*script, true), |script| (script, false));
        let found = shown(&run(&protocol, &tools(), &pieces(script), complete));
        if found != *expected {
            wrong.push(format!("{name}\n   found {found}\nexpected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn markers_that_are_not_tokens_are_read_in_text() {
    let cases = [
        ("thinks", HERMES, "\n<think>\nso\n</think>\n\nYes <think>", "R(so) T(Yes <think>)"),
        ("does not think first", HERMES, "No <think>so</think>", "T(No <think>so</think>)"),
        (
            "calls",
            HERMES,
            "Go\n<tool_call>\n{\"name\": \"stop\"}\n</tool_call>\n<tool_call>{\"name\": \"rm\"}</tool_call>",
            "T(Go) C(stop {}) T({\"name\": \"rm\"})",
        ),
        (
            "calls with keys",
            GLM,
            "<tool_call>weather.get\n<arg_key>city</arg_key>\n<arg_value>a</arg_value>\n</tool_call>",
            "C(weather.get {\"city\":\"a\"})",
        ),
    ];
    for (name, template, script, expected) in cases {
        let protocol = Protocol::declared(template, |_| None);
        let letters: Vec<_> = script.chars().map(|c| Piece::Typed(c.into())).collect();
        assert_eq!(shown(&run(&protocol, &tools(), &letters, true)), expected, "{name}");
    }
}

#[test]
fn nothing_is_called_where_nothing_is_declared() {
    let cases = [
        (HERMES, "a«<tool_call>»{\"name\":\"stop\"}«</tool_call>»b", "T(a{\"name\":\"stop\"}b)"),
        (LLAMA, "{\"name\":\"stop\"}", "T({\"name\":\"stop\"})"),
        (MUSE, " to=stop«<|message|>»<atem:function_calls>", "T(<atem:function_calls>)"),
    ];
    for (template, script, expected) in cases {
        let protocol = Protocol::declared(template, token);
        assert_eq!(shown(&run(&protocol, &Value::Null, &pieces(script), true)), expected);
    }
}

#[test]
fn a_call_that_is_too_long_is_text_as_it_comes() {
    let long = "x".repeat(crate::protocol::body::BODY_MAX + 1);
    for (template, open, close) in [
        (HERMES, "«<tool_call>»{\"name\":\"stop\",\"arguments\":{\"x\":\"", "\"}}«</tool_call>»\nb"),
        (MUSE, " to=stop«<|message|>»", "«<|eom|>»\nb"),
        (LLAMA, "{\"name\": \"", "\"}\nb"),
    ] {
        let protocol = Protocol::declared(template, token);
        let mut parser = protocol.parser(Some(&tools()), 0);
        for piece in pieces(&format!("{open}{long}")) {
            match piece {
                Piece::Typed(text) => {
                    text.as_bytes().chunks(100).for_each(|c| parser.text(str::from_utf8(c).unwrap()))
                }
                Piece::Token(text) => assert!(parser.token(super::token(&text).unwrap().id)),
            }
        }
        let so_far: usize =
            parser.take().iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum();
        assert!(so_far >= long.len(), "{so_far}");
        let whole = run(&protocol, &tools(), &pieces(&format!("{open}{long}{close}")), true);
        assert!(matches!(&whole[..], [Part::Text(text)] if text.len() > so_far && text.ends_with('b')));
    }
}

#[test]
fn a_header_that_is_too_long_is_text_however_it_is_cut() {
    let protocol = Protocol::declared(MUSE, token);
    for (role, shown_role) in [("assistant", ""), ("tool ", "tool ")] {
        let text = format!("to={} and more", "x".repeat(600));
        let whole = pieces(&format!("«<|start|>»{role}{text}"));
        let mut letters = vec![whole[0].clone()];
        letters.extend(format!("{role}{text}").chars().map(|c| Piece::Typed(c.into())));
        let expected = [Part::Text(format!("{shown_role}{text}"))];
        assert_eq!(run(&protocol, &tools(), &whole, true), expected, "{role}");
        assert_eq!(run(&protocol, &tools(), &letters, true), expected, "{role}");
    }
}

#[test]
fn every_call_has_its_own_id() {
    let protocol = Protocol::declared(HERMES, token);
    let script = "«<tool_call>»{\"name\":\"stop\"}«</tool_call>»".repeat(3);
    let parts = run(&protocol, &tools(), &pieces(&script), true);
    let ids: std::collections::BTreeSet<_> = parts
        .iter()
        .map(|part| if let Part::Call(call) = part { call.id.clone() } else { panic!("{part:?}") })
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.starts_with("call_") && id.len() == 21), "{ids:?}");
}

#[test]
fn it_is_known_when_text_comes_next() {
    let steps = [
        (HERMES, "", true, Some("<think>")),
        (HERMES, "«<think>»so", false, None),
        (HERMES, "«<think>»so«</think>»", true, None),
        (HERMES, "Yes", true, None),
        (HERMES, "«<tool_call>»{", false, None),
        (GEMMA, "", true, Some("<|channel>")),
        (GEMMA, "«<|channel>»thought\n«<channel|>»", true, None),
        (LLAMA, "{\"name\"", false, None),
        (MUSE, " to=self", false, None),
        (MUSE, " to=self«<|message|>»so«<|eom|>»", false, None),
        (MUSE, " to=self«<|message|>»so«<|eom|>»«<|start|>»assistant to=user«<|message|>»", true, None),
        (MUSE, " to=user«<|message|>»Yes«<|eom|>»", false, None),
        ("", "<think>", true, None),
    ];
    for (template, script, is_text, reasoning) in steps {
        let mut parser = Protocol::declared(template, token).parser(Some(&tools()), 0);
        for piece in pieces(script) {
            match piece {
                Piece::Typed(text) => parser.text(&text),
                Piece::Token(text) => assert!(parser.token(token(&text).unwrap().id)),
            }
        }
        let reasoning = reasoning.map(|text| token(text).unwrap().id);
        assert_eq!((parser.is_text(), parser.reasoning_token()), (is_text, reasoning), "{script:?}");
    }
}
