//! Label selectors, as the API's objects have them.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::Expression;
use kube::core::labels::SelectorExt as _;

/// Which labels something must have. An empty one matches everything (LabelSelector).
#[derive(Clone, Debug)]
pub struct Selector(kube::core::Selector);

impl Selector {
    /// Of labels that must be there as they are, and of expressions: key, operator, values.
    ///
    /// # Errors
    /// When an operator is not known, in words.
    pub fn new(
        labels: BTreeMap<String, String>,
        expressions: impl IntoIterator<Item = (String, String, BTreeSet<String>)>,
    ) -> Result<Self, String> {
        let mut all: Vec<Expression> =
            labels.into_iter().map(|(key, value)| Expression::Equal(key, value)).collect();
        for (key, operator, values) in expressions {
            all.push(match operator.as_str() {
                "In" => Expression::In(key, values),
                "NotIn" => Expression::NotIn(key, values),
                "Exists" => Expression::Exists(key),
                "DoesNotExist" => Expression::DoesNotExist(key),
                _ => return Err(format!("the operator {operator:?} of {key} is none of a label selector")),
            });
        }
        Ok(Self(all.into_iter().collect()))
    }

    /// Whether something with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn every_operator_means_what_the_api_says() {
        for (operator, values, matching, other) in [
            ("In", "a,b", &["team=a", "team=b"][..], &["team=c", "x=a", ""][..]),
            ("NotIn", "a,b", &["team=c", "x=a", ""], &["team=a"]),
            ("Exists", "", &["team=", "team=a"], &["x=a", ""]),
            ("DoesNotExist", "", &["x=a", ""], &["team=a"]),
        ] {
            let values = values.split(',').map(str::to_owned).collect();
            let expression = ("team".to_owned(), operator.to_owned(), values);
            let selector = Selector::new(BTreeMap::new(), [expression]).unwrap();
            for text in matching {
                assert!(selector.matches(&labels(text)), "{operator}: {text}");
            }
            for text in other {
                assert!(!selector.matches(&labels(text)), "{operator}: {text}");
            }
        }
        let all = Selector::new(labels("a=1,b=2"), []).unwrap();
        assert!(all.matches(&labels("a=1,b=2,c=3")) && !all.matches(&labels("a=1")));
        assert!(Selector::new(BTreeMap::new(), []).unwrap().matches(&labels("")));
        let wrong = ("team".to_owned(), "Near".to_owned(), BTreeSet::new());
        assert!(Selector::new(BTreeMap::new(), [wrong]).unwrap_err().contains("\"Near\""));
    }
}
