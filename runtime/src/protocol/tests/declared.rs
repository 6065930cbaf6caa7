use super::*;
use crate::protocol::{Format, Syntax};

fn only(tokens: &'static [&'static str]) -> impl Fn(&str) -> Option<AddedToken> {
    |text| tokens.contains(&text).then(|| token(text)).flatten()
}

/// A name for a format.
fn name(protocol: &Protocol) -> String {
    match &protocol.format {
        Format::Plain => "plain".into(),
        Format::Channels(_) => "channels".into(),
        Format::Tagged(tags) => {
            let texts: Vec<_> = tags.markers.iter().map(|marker| marker.text).collect();
            format!("{:?} {}", tags.syntax, texts.join(" "))
        }
    }
}

#[test]
fn the_template_and_the_vocabulary_say_which_format_it_is() {
    let muse: &[&str] = &["<|start|>", "<|message|>", "<|eom|>", "<|eot|>"];
    let gemma: &[&str] = &["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>"];
    let thinks: &[&str] = &["<think>", "</think>"];
    let cases = [
        ("", &[] as &[&str], "plain"),
        ("<|im_start|>{{ message.content }}", &[], "plain"),
        (MUSE, muse, "channels"),
        (MUSE, &muse[..2], "plain"),
        ("<|start|>assistant<|channel|>final<|message|>", muse, "plain"),
        (GEMMA, gemma, "Braces <|channel> <channel|> <|tool_call> <tool_call|> <|\"|>"),
        ("<start_of_turn>model", &[], "plain"),
        (HERMES, &[], "Json <think> </think> <tool_call> </tool_call>"),
        ("<tool_call>", &[], "Json <tool_call> </tool_call>"),
        ("<tool_call>", thinks, "Json <think> </think> <tool_call> </tool_call>"),
        ("{{ x }}", thinks, "None <think> </think>"),
        ("{{ x }}", &thinks[..1], "plain"),
        (FUNCTION_TAGS, &[], "FunctionTags <think> </think> <tool_call> </tool_call>"),
        (
            GLM,
            &[],
            "KeyValues <think> </think> <tool_call> </tool_call> <arg_key> </arg_key> <arg_value> </arg_value>",
        ),
        (LLAMA, &["<|python_tag|>"], "BareJson <|python_tag|>"),
        (LLAMA, &[], "BareJson "),
        (r#"m.tool_calls "{\"name\": \"" + x + "\", \"parameters\": ""#, &[], "BareJson "),
    ];
    for (template, tokens, expected) in cases {
        let protocol =
            Protocol::declared(template, |text| tokens.contains(&text).then(|| token(text)).flatten());
        assert_eq!(name(&protocol), expected, "{template:?} with {tokens:?}");
    }
    assert_eq!(Protocol::default(), Protocol::declared("", only(&[])));
    let syntaxes = FORMATS.map(|template| name(&Protocol::declared(template, token)));
    assert!(!syntaxes.iter().any(|name| name.starts_with(&format!("{:?}", Syntax::None))), "{syntaxes:?}");
}
