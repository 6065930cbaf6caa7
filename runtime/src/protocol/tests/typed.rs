use serde_json::{Value, json};

use crate::protocol::tools::{Argument, Tools};

/// The one argument `x` of a tool with `schema` for it.
fn typed(schema: &Value, argument: Argument) -> Option<Value> {
    let parameters = json!({"type": "object", "properties": {"x": schema}, "required": ["x"]});
    let tools = Tools::new(Some(&json!([{"name": "f", "parameters": parameters}])));
    let (_, mut arguments) = tools.call("f", vec![("x".into(), argument)])?;
    Some(arguments["x"].take())
}

#[test]
fn untyped_text_becomes_what_the_schema_wants() {
    let string = json!({"type": "string"});
    let integer = json!({"type": "integer"});
    let number = json!({"type": "number"});
    let boolean = json!({"type": "boolean"});
    let maybe = json!({"type": ["string", "null"]});
    let either = json!({"anyOf": [{"type": "integer"}, {"type": "string"}]});
    let list = json!({"type": "array", "items": {"type": "integer"}});
    let object = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let colour = json!({"enum": ["red", "blue"]});
    let text_colour = json!({"type": "string", "enum": ["red", "blue"]});
    let cases = [
        (&string, "3", Some(json!("3"))),
        (&string, " null ", Some(json!(" null "))),
        (&string, "\"a\"", Some(json!("\"a\""))),
        (&integer, "3", Some(json!(3))),
        (&integer, "\n-3\n", Some(json!(-3))),
        (&integer, "3.0", Some(json!(3))),
        (&integer, "3.5", None),
        (&integer, "three", None),
        (&integer, "", None),
        (&integer, "3 4", None),
        (&integer, "18446744073709551615", Some(json!(u64::MAX))),
        (&integer, "1e300", None),
        (&number, "3", Some(json!(3))),
        (&number, "-2.5e3", Some(json!(-2500.0))),
        (&number, "NaN", None),
        (&boolean, "true", Some(json!(true))),
        (&boolean, "False", Some(json!(false))),
        (&boolean, "1", None),
        (&maybe, "null", Some(json!(null))),
        (&maybe, "5", Some(json!("5"))),
        (&either, "5", Some(json!(5))),
        (&either, "5 apples", Some(json!("5 apples"))),
        (&list, "[1, 2]", Some(json!([1, 2]))),
        (&list, "[1, \"2\"]", Some(json!([1, 2]))),
        (&list, "[1, \"x\"]", None),
        (&list, "[1,", None),
        (&list, "{}", None),
        (&object, "{\"a\": 1}", Some(json!({"a": 1}))),
        (&object, "{}", None),
        (&object, "{\"a\": 1, \"b\": 2}", None),
        (&colour, "red", Some(json!("red"))),
        (&colour, "green", None),
        (&text_colour, "green", None),
        (&Value::Null, "3", Some(json!(3))),
        (&Value::Null, "three", Some(json!("three"))),
        (&Value::Null, "\"three\"", Some(json!("\"three\""))),
        (&json!({"$ref": "#/x"}), "3", Some(json!(3))),
        (&json!({"type": "uuid"}), "3", Some(json!(3))),
        (
            &json!({"type": "object"}),
            "{\"a\": {\"b\": [null, -1, 2.5, \"é\"]}}",
            Some(json!({"a": {"b": [null, -1, 2.5, "é"]}})),
        ),
        (&json!({"type": "object"}), "{\"a\": 1, \"a\": 1}", None),
        (&json!({"type": 7}), "x", Some(json!("x"))),
        (&json!(true), "x", Some(json!("x"))),
    ];
    for (schema, text, expected) in cases {
        assert_eq!(typed(schema, Argument::Untyped(text.into())), expected, "{text:?} for {schema}");
    }
}

#[test]
fn json_is_checked_and_numbers_are_taken_out_of_strings() {
    let cases = [
        (json!({"type": "integer"}), json!("3"), Some(json!(3))),
        (json!({"type": "integer"}), json!("x"), None),
        (json!({"type": "integer"}), json!(null), None),
        (json!({"type": "string"}), json!(3), None),
        (json!({"type": "boolean"}), json!("true"), Some(json!(true))),
        (json!({"type": "number"}), json!(2), Some(json!(2))),
        (json!({"type": "array"}), json!([{}]), Some(json!([{}]))),
        (json!({}), json!([null]), Some(json!([null]))),
        (json!({"oneOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]}), json!({}), None),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1]}}}}),
            json!({"a": [1, 2]}),
            None,
        ),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(typed(&schema, Argument::Json(value.clone())), expected, "{value} for {schema}");
    }
}

#[test]
fn only_declared_tools_are_called() {
    let tools = Tools::new(Some(&json!([{"name": "a.b"}, {"function": {"name": "c"}}, {"x": 1}, 7, "c"])));
    for (name, expected) in
        [("a.b", Some("a.b")), ("c", Some("c")), ("c.c", Some("c")), ("b", None), ("a.c", None), ("", None)]
    {
        let called = tools.call(name, Vec::new());
        assert_eq!(called.as_ref().map(|(name, _)| name.as_str()), expected, "{name}");
    }
    for nothing in [json!(null), json!({}), json!([])] {
        assert!(Tools::new(Some(&nothing)).is_empty());
    }
}

#[test]
fn checking_has_an_end() {
    let any_of = |branches: Vec<Value>| json!({"type": "array", "items": {"anyOf": branches}});
    let numbers = || Argument::Json(json!(vec![1; 2000]));
    let null = json!({"type": "null"});
    let few = any_of(vec![null.clone(), json!({"type": "integer"})]);
    assert_eq!(typed(&few, numbers()), Some(json!(vec![1; 2000])));
    let many = any_of([vec![null; 1999], vec![json!({})]].concat());
    assert_eq!(typed(&many, numbers()), None, "it would fit after four million checks");
}
