use super::*;
use crate::test_data::Random;

const KEY_DIMS: [usize; 6] = [1, 2, 5, 64, 127, 256];

fn tile(key_dim: usize, random: &mut Random) -> Vec<Columns> {
    random.normal(key_dim * COLUMNS).as_chunks().0.to_vec()
}

#[test]
fn a_step_is_what_the_rule_says() {
    for delta in Delta::all(Features::detect()) {
        for key_dim in KEY_DIMS {
            let mut random = Random::new(key_dim as u64);
            let (before, v) = (tile(key_dim, &mut random), tile(1, &mut random)[0]);
            let (q, k) = (random.normal(key_dim), random.normal(key_dim));
            let (decay, beta) = (0.75, 0.625);
            let mut state = before.clone();
            let step = delta.step(&mut state, Row { q: &q, k: &k, v: &v, decay, beta });
            for j in 0..COLUMNS {
                let exact = |x: f32| f64::from(x);
                let column = || before.iter().map(|row| exact(row[j]));
                let held: f64 = column().zip(&k).map(|(s, k)| s * exact(*k)).sum();
                let held_size: f64 = column().zip(&k).map(|(s, k)| (s * exact(*k)).abs()).sum();
                let change = exact(beta) * (exact(v[j]) - exact(decay) * held);
                // A sum of products rounds twice a term at most, and three operations follow.
                let epsilon = f64::from(f32::EPSILON);
                let change_bound = (key_dim as f64 + 4.0) * epsilon * (held_size + exact(v[j]).abs());
                let close = |what: &str, actual: f32, expected: f64, bound: f64| {
                    let error = (exact(actual) - expected).abs();
                    let name = delta.name();
                    assert!(error <= bound, "{name} {key_dim} {what} {j}: {actual}, not {expected}");
                };
                close("delta", step.delta[j], change, change_bound);
                let (mut answer, mut answer_bound) = (0.0, 0.0);
                for (i, after) in state.iter().enumerate() {
                    let expected = exact(decay) * exact(before[i][j]) + exact(k[i]) * change;
                    let size = exact(before[i][j]).abs() + (exact(k[i]) * change).abs();
                    let bound = exact(k[i]).abs() * change_bound + 3.0 * epsilon * size;
                    close("state", after[j], expected, bound);
                    answer += expected * exact(q[i]);
                    answer_bound += (bound + (key_dim as f64 + 1.0) * epsilon * size) * exact(q[i]).abs();
                }
                close("out", step.out[j], answer, answer_bound);
            }
            // What an open row leaves behind gives the same bits when it is taken in later.
            let mut later = before;
            delta.take_in(&mut later, &k, decay, &step.delta);
            assert_eq!(later, state, "{} {key_dim}", delta.name());
        }
    }
}
