use proptest::prelude::{
    ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::sample::select;

use super::*;

/// What answers, whole and broken, are made of.
const FRAGMENTS: [&str; 44] = [
    "a",
    " b ",
    "\n\n",
    "é漢🙂",
    "{",
    "}",
    "\"",
    ",",
    ">",
    "thought\n",
    " to=user",
    " to=self",
    " to=weather.get",
    "assistant",
    "call:",
    "{\"name\": \"weather.get\", \"arguments\": {\"city\": \"Oslo\"}}",
    "{\"name\": \"weather.get\", \"parameters\": {\"city\": \"Oslo\", \"days\": 3}}",
    "{\"name\": \"weather.get\", \"arguments\": {\"city\": \"Os",
    "lo\"}}",
    "{\"name\": \"stop\"}",
    ";",
    "<function=weather.get>",
    "<function=stop>",
    "<parameter=city>",
    "<parameter=days>",
    "</parameter>",
    "</function>",
    "weather.get\n",
    "stop",
    "city",
    "Oslo",
    "3",
    "call:weather.get{city:",
    "call:stop{}",
    "<atem:function_calls>",
    "<atem:invoke name=\"weather.get\">",
    "<atem:invoke name=\"stop\">",
    "<atem:parameter name=\"city\">",
    "</atem:parameter>",
    "</atem:invoke>",
    "</atem:function_calls>",
    "<think>",
    "</think>",
    "<tool_call>",
];

fn piece() -> impl Strategy<Value = Piece> {
    let typed = select(&FRAGMENTS[..]).prop_map(|text| Piece::Typed(text.into()));
    let token = select(&VOCABULARY[..]).prop_map(|text| Piece::Token(text.into()));
    // Typed markers as well: they must not pass for the tokens.
    let mention = select(&VOCABULARY[..]).prop_map(|text| Piece::Typed(text.into()));
    prop_oneof![6 => typed, 4 => token, 1 => mention]
}

/// A whole call of each format.
const CALLS: [&str; 7] = [
    "«<|start|>»assistant to=weather.get«<|message|>»<atem:function_calls><atem:invoke name=\"weather.get\">\
     <atem:parameter name=\"city\">Oslo</atem:parameter></atem:invoke></atem:function_calls>«<|eom|>»",
    "«<|tool_call>»call:weather.get{city:«<|\"|>»Oslo«<|\"|>»,days:3}«<tool_call|>»",
    "«<tool_call>»{\"name\": \"weather.get\", \"arguments\": {\"city\": \"Oslo\"}}«</tool_call>»",
    "«<tool_call>»<function=weather.get>\n<parameter=city>\nOslo\n</parameter>\n</function>«</tool_call>»",
    "«<tool_call>»weather.get\n«<arg_key>»city«</arg_key>»«<arg_value>»Oslo«</arg_value>»«</tool_call>»",
    "«<|python_tag|>»{\"name\": \"weather.get\", \"parameters\": {\"city\": \"Oslo\"}}",
    "{\"name\": \"stop\"}",
];

/// A call with one piece of it left out, written twice, or neither.
fn call() -> impl Strategy<Value = Vec<Piece>> {
    (select(&CALLS[..]), 0usize..30, any::<bool>()).prop_map(|(script, at, twice)| {
        let mut call = pieces(script);
        if at < call.len() {
            let piece = call.remove(at);
            if twice {
                call.splice(at..at, [piece.clone(), piece]);
            }
        }
        call
    })
}

fn answer() -> impl Strategy<Value = Vec<Piece>> {
    let chunk = prop_oneof![4 => piece().prop_map(|piece| vec![piece]), 1 => call()];
    prop::collection::vec(chunk, 0..16).prop_map(|chunks| chunks.concat())
}

#[test]
fn the_whole_calls_are_calls() {
    for template in FORMATS {
        let calls = |script: &&str| shown(&run(&protocol(template, true), &tools(), &pieces(script), true));
        let all: Vec<_> = CALLS.iter().map(calls).collect();
        assert!(
            all.iter().any(|parts| parts.starts_with("C(weather.get {\"city\":\"Oslo\"")),
            "{template}: {all:?}"
        );
    }
}

/// The same answer, its typed text cut elsewhere.
fn cut(pieces: &[Piece], cuts: &[usize]) -> Vec<Piece> {
    let mut cuts = cuts.iter().cycle();
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Token(_) => out.push(piece.clone()),
            Piece::Typed(text) => {
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    let chars = 1 + cuts.next().unwrap_or(&0) % 7;
                    let len = rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at);
                    out.push(Piece::Typed(rest[..len].into()));
                    rest = &rest[len..];
                }
            }
        }
    }
    out
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// `call` as each format writes it, white space left out, its parameters in the order they were written.
fn written(call: &Call) -> [String; 6] {
    let Call { name, arguments, .. } = call;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let each = |one: &dyn Fn(&str, &Value) -> String| -> String {
        arguments.iter().map(|(key, value)| one(key, value)).collect()
    };
    let atem = each(&|k, v| format!("<atem:parameter name=\"{k}\">{}</atem:parameter>", text(v)));
    let tags = each(&|k, v| format!("<parameter={k}>{}</parameter>", text(v)));
    let pairs = each(&|k, v| format!("<arg_key>{k}</arg_key><arg_value>{}</arg_value>", text(v)));
    let quoted = |value: &Value| {
        value.as_str().map_or_else(|| value.to_string(), |text| format!("<|\"|>{text}<|\"|>"))
    };
    let braces: Vec<_> = arguments.iter().map(|(key, value)| format!("{key}:{}", quoted(value))).collect();
    let json = Value::Object(arguments.clone());
    let mut forms = [
        format!("<atem:invoke name=\"{name}\">{atem}</atem:invoke>"),
        format!("call:{name}{{{}}}", braces.join(",")),
        format!("{{\"name\":\"{name}\",\"arguments\":{json}}}"),
        format!("<function={name}>{tags}</function>"),
        format!("{name}{pairs}"),
        format!("{{\"name\":\"{name}\",\"parameters\":{json}}}"),
    ];
    forms.iter_mut().for_each(|form| *form = without_space(form));
    forms
}

fn protocol(template: &str, tokens: bool) -> Protocol {
    Protocol::declared(template, |text| token(text).filter(|_| tokens))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_cut_gives_the_same_parts(
        template in select(&FORMATS[..]),
        tokens in any::<bool>(),
        answer in answer(),
        cuts in prop::collection::vec(0usize..7, 1..8),
        complete in any::<bool>(),
    ) {
        let protocol = protocol(template, tokens);
        let whole = run(&protocol, &tools(), &answer, complete);
        // Neighbours are typed text of one piece, too.
        let mut joined: Vec<Piece> = Vec::new();
        for piece in &answer {
            match (joined.last_mut(), piece) {
                (Some(Piece::Typed(last)), Piece::Typed(text)) => last.push_str(text),
                (_, piece) => joined.push(piece.clone()),
            }
        }
        prop_assert_eq!(&run(&protocol, &tools(), &cut(&answer, &cuts), complete), &whole);
        prop_assert_eq!(&run(&protocol, &tools(), &joined, complete), &whole);
    }

    /// Every call is one that the model wrote from its first byte to its last.
    #[test]
    fn a_call_is_what_was_written(
        template in select(&FORMATS[..]),
        tokens in any::<bool>(),
        answer in answer(),
        complete in any::<bool>(),
    ) {
        let all: String = answer.iter().map(|(Piece::Typed(text) | Piece::Token(text))| text.as_str()).collect();
        let all = without_space(&all);
        for part in run(&protocol(template, tokens), &tools(), &answer, complete) {
            if let Part::Call(call) = part {
                let forms = written(&call);
                let short = format!("{{\"name\":\"{}\"}}", call.name);
                let found = forms.iter().chain([&short]).any(|form| all.contains(form.as_str()));
                prop_assert!(found, "{call:?} in {all}");
            }
        }
    }

    /// Without tools everything typed is shown, in its order, but white space and what a marker's text is.
    #[test]
    fn nothing_typed_is_lost(
        template in select(&FORMATS[1..]),
        answer in answer(),
        complete in any::<bool>(),
    ) {
        let silent = |text: &str| token(text).map(|token| AddedToken { special: true, ..token });
        let protocol = Protocol::declared(template, silent);
        let mut typed = String::new();
        for (at, piece) in answer.iter().enumerate() {
            match piece {
                // The name of a channel, and what follows somebody else's turn.
                Piece::Typed(text) if text == "thought\n" && template == GEMMA => return Ok(()),
                Piece::Token(text) if text == "<|tool_response>" && template == GEMMA => {
                    prop_assert!(at < answer.len());
                    break;
                }
                Piece::Typed(text) => typed.push_str(text),
                // Not a marker of this format, and not special in the test's vocabulary.
                Piece::Token(text) => {
                    let known = protocol.marker(token(text).unwrap().id).is_some();
                    typed.push_str(if known || special(text) { "" } else { text });
                }
            }
        }
        let shown: String = run(&protocol, &Value::Null, &answer, complete)
            .iter()
            .map(|part| match part {
                Part::Text(text) | Part::Reasoning(text) => text.as_str(),
                Part::Call(call) => panic!("{call:?}"),
            })
            .collect();
        prop_assert_eq!(without_space(&shown), without_space(&typed));
    }

    /// A conversation of messages to somebody: each byte goes to whom it is addressed.
    #[test]
    fn messages_go_to_whom_they_are_addressed(
        messages in prop::collection::vec((select(&["self", "user", "weather.get"][..]), "[a-zé<>:=| ]{0,20}"), 0..6),
    ) {
        let mut script = Vec::new();
        let (mut reasoning, mut text) = (String::new(), String::new());
        for (at, (to, body)) in messages.iter().enumerate() {
            if at > 0 {
                script.extend([Piece::Token("<|eom|>".into()), Piece::Token("<|start|>".into())]);
            }
            let role = if at > 0 { "assistant" } else { "" };
            script.push(Piece::Typed(format!("{role} to={to}")));
            script.push(Piece::Token("<|message|>".into()));
            script.push(Piece::Typed(body.clone()));
            if *to == "self" { reasoning.push_str(body) } else { text.push_str(body) }
        }
        let parts = run(&protocol(MUSE, true), &tools(), &script, true);
        let of = |wanted: bool| -> String {
            parts.iter().map(|part| match part {
                Part::Reasoning(text) if wanted => text.as_str(),
                Part::Text(text) if !wanted => text.as_str(),
                Part::Call(call) => panic!("{call:?}"),
                _ => "",
            }).collect()
        };
        prop_assert_eq!((of(true), of(false)), (reasoning, text));
    }
}
