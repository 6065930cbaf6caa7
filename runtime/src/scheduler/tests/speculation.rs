//! That proposals change how fast an answer comes and nothing else about it.

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::*;
use crate::sim::FOREVER;
use crate::{SimDrafter, Speculation};

/// Room for proposals.
fn roomy(slots: u32, batch_tokens: u32) -> SimOptions {
    SimOptions { logit_rows: Some(batch_tokens), context: 160, ..sized(slots, batch_tokens) }
}

/// One of so many tokens is wrong.
fn drafter(block: u32, wrong: u32) -> SimDrafter {
    SimDrafter { block, wrong, delay: Some(Duration::ZERO), chain: false }
}

/// What the client sees of an answer and of the service after it, but for times and proposals.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    text: String,
    reason: FinishReason,
    usage: Usage,
}

/// All of `prompts` at once, each in its own session, and then a second answer in each.
fn answers(
    options: SimOptions,
    prompts: &[(Prompt, GenerateOptions)],
    how: Speculation,
) -> (Vec<Seen>, u32, u32) {
    let slots = options.slots as usize;
    let scheduler = service(options);
    let (mut seen, mut proposed, mut accepted) = (Vec::new(), 0, 0);
    let sessions: Vec<_> = prompts.iter().map(|_| scheduler.open_session("sim").unwrap()).collect();
    for _ in 0..2 {
        let started = sessions.iter().zip(prompts).map(|(session, (prompt, options))| {
            let options = GenerateOptions { speculation: how, ..options.clone() };
            ask(&scheduler, *session, prompt.clone(), options)
        });
        for events in started.collect::<Vec<_>>() {
            let answer = collect(events);
            let (reason, usage) = answer.finished();
            assert!(usage.accepted_tokens <= usage.proposed_tokens);
            proposed += usage.proposed_tokens;
            accepted += usage.accepted_tokens;
            let mut usage = Usage { proposed_tokens: 0, accepted_tokens: 0, ..usage };
            if slots < sessions.len() {
                // Who loses a slot to whom is a matter of time.
                usage.cached_tokens = 0;
            }
            seen.push(Seen { text: answer.text, reason, usage });
        }
    }
    (seen, proposed, accepted)
}

fn prompts() -> impl Strategy<Value = Vec<(Prompt, GenerateOptions)>> {
    let prompt = prop_oneof![
        // The answer copies the prompt, copies itself, or goes through the alphabet.
        "[ab]{1,3}[abc ]{0,40}".prop_map(|text| user(&text)),
        Just(user(FOREVER)),
        "[a-z]{1,30}".prop_map(Prompt::Text),
    ];
    // At temperature 6 the token that the engine wants has about one chance in ten: most proposals are wrong.
    let temperature = prop_oneof![Just(0.0_f32), Just(1.5), Just(3.0), Just(6.0)];
    let penalty = prop_oneof![Just(1.0_f32), Just(1.3)];
    let stop = prop::collection::vec(prop_oneof!["[abc]{1,3}", "o: ?[ab]?", "[e-m]{2}"], 0..3);
    let options = (temperature, penalty, any::<u64>(), stop, prop::option::of(1u32..60));
    let options = options.prop_map(|(temperature, penalty, seed, stop, max_tokens)| GenerateOptions {
        temperature: Some(temperature),
        repetition_penalty: Some(penalty),
        seed: Some(seed),
        stop,
        max_tokens,
        ..GenerateOptions::default()
    });
    prop::collection::vec((prompt, options), 1..5)
}

proptest! {
    #![proptest_config(Config::with_cases(96))]

    /// Greedy and drawn, one answer and several at once, until any kind of end; with a drafter and without.
    #[test]
    fn an_answer_is_the_same_with_and_without(
        prompts in prompts(),
        slots in 1u32..5,
        batch in 5u32..24,
        drafts in prop::option::of((2u32..18, 1u32..9)),
    ) {
        let drafter = drafts.map(|(block, wrong)| drafter(block, wrong));
        let options = SimOptions { drafter, ..roomy(slots, batch) };
        let (plain, proposed, _) = answers(options.clone(), &prompts, Speculation::Off);
        prop_assert_eq!(proposed, 0);
        for how in [Speculation::Always, Speculation::Auto] {
            let (speculated, _, accepted) = answers(options.clone(), &prompts, how);
            prop_assert_eq!(&speculated, &plain, "{:?}", how);
            let emitted: u32 = plain.iter().map(|seen| seen.usage.completion_tokens).sum();
            prop_assert!(accepted <= emitted);
        }
    }
}

/// The rows of each step of one answer, and the answer.
fn steps(prompt: Prompt, options: GenerateOptions) -> (Vec<u32>, Answered) {
    steps_of(roomy(1, 128), prompt, options)
}

fn steps_of(model: SimOptions, prompt: Prompt, options: GenerateOptions) -> (Vec<u32>, Answered) {
    let (scheduler, Gate { entered, permits }) = gated_service(model);
    drop(permits);
    let session = scheduler.open_session("sim").unwrap();
    let answer = collect(ask(&scheduler, session, prompt, options));
    (entered.try_iter().map(|spans| spans[0].len).collect(), answer)
}

fn speculating(how: Speculation) -> GenerateOptions {
    GenerateOptions { speculation: how, ..GenerateOptions::default() }
}

#[test]
fn a_copy_takes_fewer_steps_and_every_row_is_counted() {
    let text = "one two three four five six seven eight nine ten";
    let (plain, answer) = steps(user(text), speculating(Speculation::Off));
    let (_, usage) = answer.finished();
    // Six tokens of `echo: ` and an end mark beside the text.
    assert_eq!((plain.len(), usage.completion_tokens), (48 + 7, 48 + 7));
    assert_eq!((usage.proposed_tokens, usage.accepted_tokens), (0, 0));

    let (rows, answer) = steps(user(text), speculating(Speculation::Always));
    assert_eq!(answer.text, format!("echo: {text}"));
    let (_, usage) = answer.finished();
    assert!(rows.len() <= 20, "{rows:?}");
    // The end mark, too, follows the text in the prompt, so that every token of the answer had a row.
    let rejected = usage.proposed_tokens - usage.accepted_tokens;
    assert_eq!(rows.iter().sum::<u32>(), usage.prompt_tokens + usage.completion_tokens + rejected);
    assert_eq!(rows.len() as u32 + usage.accepted_tokens, usage.completion_tokens + 1);
}

/// The alphabet, which never repeats before it has come to its end.
#[test]
fn a_block_of_a_drafter_is_verified_in_one_step() {
    let ask = |drafter, max_tokens| {
        let model = SimOptions { drafter, ..roomy(1, 128) };
        let options = GenerateOptions { max_tokens: Some(max_tokens), ..speculating(Speculation::Always) };
        steps_of(model, Prompt::Text("?".into()), options)
    };
    let (plain, expected) = ask(None, 24);
    assert_eq!(plain, [1; 24]);
    // 5 tokens and one more a step, as none of them is wrong.
    let (rows, answer) = ask(Some(drafter(6, 99)), 24);
    assert_eq!((rows, &answer.text), (vec![6; 4], &expected.text));
    // 12 at most are proposed, and every second is wrong: one comes.
    let (rows, answer) = ask(Some(drafter(20, 2)), 24);
    assert_eq!(answer.text, expected.text);
    assert!(rows.len() == 12 && rows[0] == 13, "{rows:?}");
    let (_, usage) = answer.finished();
    assert_eq!(rows.len() as u32 + usage.accepted_tokens, usage.completion_tokens);
}

#[test]
fn a_drafter_that_fails_is_not_missed() {
    let failing = SimDrafter { delay: None, ..drafter(6, 99) };
    let model = SimOptions { drafter: Some(failing), ..roomy(1, 128) };
    let options = GenerateOptions { max_tokens: Some(9), ..speculating(Speculation::Always) };
    let (rows, answer) = steps_of(model, Prompt::Text("?".into()), options);
    assert_eq!((rows, answer.text.as_str()), (vec![1; 9], "bcdefghij"));
}

#[test]
fn a_drafter_is_asked_where_its_time_is_won_back() {
    let ask = |delay| {
        let drafter = SimDrafter { delay: Some(Duration::from_millis(delay)), ..drafter(9, 99) };
        let model =
            SimOptions { drafter: Some(drafter), step_delay: Duration::from_millis(20), ..roomy(1, 64) };
        steps_of(model, Prompt::Text("?".into()), at_most(24)).1.finished().1
    };
    let cheap = ask(1);
    assert!(cheap.accepted_tokens > 8, "{cheap:?}");
    let dear = ask(400);
    assert!(dear.proposed_tokens < 9, "asked once, to see: {dear:?}");
}

#[test]
fn max_tokens_and_the_context_bound_what_is_proposed() {
    for max_tokens in [1, 2, 3, 20] {
        let options = GenerateOptions { max_tokens: Some(max_tokens), ..speculating(Speculation::Always) };
        let (rows, answer) = steps(user(FOREVER), options);
        let (reason, usage) = answer.finished();
        assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, max_tokens));
        assert!(rows[1..].iter().all(|rows| *rows <= max_tokens), "{rows:?}");
    }
    // The engine asserts that no step goes past its 160 positions.
    let (_, answer) = steps(user(FOREVER), speculating(Speculation::Always));
    let (reason, usage) = answer.finished();
    assert_eq!((reason, usage.prompt_tokens + usage.completion_tokens), (FinishReason::Length, 160));
    assert!(usage.accepted_tokens > 60, "{usage:?}");
}

#[test]
fn steps_whose_rows_cost_nothing_are_found_to_pay() {
    // Long beside what a busy machine adds to a step.
    let options = SimOptions { step_delay: Duration::from_millis(20), ..roomy(1, 64) };
    let (_, proposed, accepted) = answers(options, &[(user(FOREVER), at_most(100))], Speculation::Auto);
    assert!(accepted > 100, "{accepted} of {proposed}, and 200 tokens in all");
}

#[test]
fn nothing_is_taken_after_a_reader_is_gone() {
    for how in [Speculation::Off, Speculation::Always] {
        let scheduler = service(roomy(1, 64));
        let session = scheduler.open_session("sim").unwrap();
        let (dropped, gone) = channel::<()>();
        let mut room = 40;
        let full: Sink = Box::new(move |_| {
            let _until_the_sink_is_dropped = &dropped;
            room -= 1;
            if room == 0 { Err(SinkClosed) } else { Ok(()) }
        });
        scheduler.respond(session, user(FOREVER), speculating(how), full).unwrap();
        assert!(gone.recv().is_err(), "the sink is dropped");
        // One start and 39 deltas of a token each, the last one refused.
        assert_eq!(scheduler.status().models[0].completion_tokens, 39, "{how:?}");
    }
}

#[test]
fn answers_that_read_their_prompts_get_the_rows() {
    let (scheduler, gate) = gated_service(roomy(2, 8));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, user(FOREVER), speculating(Speculation::Always));
    let prompt: Vec<_> = (0..4).map(|_| gate.step()[0].1).collect();
    assert_eq!(prompt, [8, 8, 8, 5]);
    let proposing = (0..12).map(|_| gate.step()[0].1).max();
    assert_eq!(proposing, Some(7), "its own row and the 6 that two slots leave of 8");
    gate.entered();
    let second = ask(&scheduler, b, Prompt::Text("y".repeat(20)), at_most(1));
    gate.permit();
    let steps: Vec<_> = (0..3).map(|_| gate.step()).collect();
    let rows = |step: &Vec<(u32, u32)>, slot| step.iter().find(|(s, _)| *s == slot).map(|(_, rows)| *rows);
    assert!(steps.iter().all(|step| rows(step, 0) == Some(1)), "{steps:?}");
    assert_eq!(steps.iter().filter_map(|step| rows(step, 1)).collect::<Vec<_>>(), [7, 7, 6]);
    drop(gate);
    collect(first);
    collect(second);
}
