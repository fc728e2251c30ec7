//! Which server, token and certificate are in effect, and what says so.
//!
//! The first that is given: an option; the context named by an option; the environment; the context named by the
//! environment, else the current one; the default. A context's token and certificate go to its own server only: a
//! token that was made for one orchestrator is not shown to another.

use std::fmt;
use std::path::PathBuf;

use super::file::{Context, Contexts};
use crate::args::ConnectionArgs;
use crate::failure::Failure;

/// Where an orchestrator serves its API when nothing else is said.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7080";

/// What the environment says; an empty variable says nothing.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    /// `OUTPOST_SERVER`
    pub(crate) server: Option<String>,
    /// `OUTPOST_TOKEN_FILE`
    pub(crate) token_file: Option<PathBuf>,
    /// `OUTPOST_TOKEN`
    pub(crate) token: Option<String>,
    /// `OUTPOST_CA`
    pub(crate) ca: Option<PathBuf>,
    /// `OUTPOST_CONTEXT`
    pub(crate) context: Option<String>,
}

impl Environment {
    /// Of this process.
    pub(crate) fn of_process() -> Self {
        let path = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            server: text("OUTPOST_SERVER"),
            token_file: path("OUTPOST_TOKEN_FILE"),
            token: text("OUTPOST_TOKEN"),
            ca: path("OUTPOST_CA"),
            context: text("OUTPOST_CONTEXT"),
        }
    }
}

/// What says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// An option of the command line.
    Option(&'static str),
    /// A variable of the environment.
    Variable(&'static str),
    /// A context.
    Context(String),
    /// The file of contexts, which names the current one.
    Current,
    /// Nobody.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "option {name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Context(name) => write!(f, "context {name}"),
            Self::Current => f.write_str("`outpost context use`"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and what says so.
#[derive(Clone)]
pub(crate) struct Said<T> {
    /// The value.
    pub(crate) value: T,
    /// What says so.
    pub(crate) source: Source,
}

/// Where a token is.
#[derive(Clone)]
pub(crate) enum TokenAt {
    /// In a file.
    File(PathBuf),
    /// Here.
    Given(String),
}

/// What is in effect.
pub(crate) struct Effective {
    /// The chosen context, whether or not anything of it is used.
    pub(crate) context: Option<Said<String>>,
    /// The API's URL, as it was written.
    pub(crate) server: Said<String>,
    /// The token.
    pub(crate) token: Option<Said<TokenAt>>,
    /// Root certificates for https.
    pub(crate) ca: Option<Said<PathBuf>>,
    /// A context has a token, which is for another server.
    pub(crate) token_withheld: Option<String>,
}

/// What is in effect, given all that was said.
///
/// # Errors
/// A context is named that is not there.
pub(crate) fn resolve(
    args: &ConnectionArgs,
    environment: &Environment,
    contexts: &Contexts,
) -> Result<Effective, Failure> {
    let chosen = chosen(args, environment, contexts);
    let context = match &chosen {
        Some(chosen) => Some(contexts.named(&chosen.value)?),
        None => None,
    };
    // A context that an option names wins over the environment, as the option does.
    let first = matches!(&chosen, Some(it) if matches!(it.source, Source::Option(_)));
    let ranks = Ranks {
        chosen: &chosen,
        context,
        first,
    };

    let server = ranks
        .pick(
            said(&args.server, Source::Option("--server")),
            said(&environment.server, Source::Variable("OUTPOST_SERVER")),
            |context| Some(context.server.clone()),
        )
        .unwrap_or(Said {
            value: DEFAULT.to_owned(),
            source: Source::Default,
        });
    let own = context.is_some_and(|context| same(&context.server, &server.value));
    let token_env = said(
        &environment.token_file,
        Source::Variable("OUTPOST_TOKEN_FILE"),
    )
    .map(file)
    .or_else(|| {
        said(&environment.token, Source::Variable("OUTPOST_TOKEN")).map(|it| Said {
            value: TokenAt::Given(it.value),
            source: it.source,
        })
    });
    let token_option = said(&args.token_file, Source::Option("--token-file")).map(file);
    let token = ranks.pick(token_option, token_env, |context| {
        if own { token_of(context) } else { None }
    });
    let ca = ranks.pick(
        said(&args.ca, Source::Option("--ca")),
        said(&environment.ca, Source::Variable("OUTPOST_CA")),
        |context| if own { context.ca.clone() } else { None },
    );
    let withheld = context.filter(|context| !own && token.is_none() && token_of(context).is_some());
    let token_withheld = withheld.map(|context| context.server.clone());
    Ok(Effective {
        context: chosen,
        server,
        token,
        ca,
        token_withheld,
    })
}

/// Which context, if any.
fn chosen(
    args: &ConnectionArgs,
    environment: &Environment,
    contexts: &Contexts,
) -> Option<Said<String>> {
    said(&args.context, Source::Option("--context"))
        .or_else(|| said(&environment.context, Source::Variable("OUTPOST_CONTEXT")))
        .or_else(|| said(&contexts.current, Source::Current))
}

/// The chosen context, and whether it comes before the environment.
struct Ranks<'a> {
    chosen: &'a Option<Said<String>>,
    context: Option<&'a Context>,
    first: bool,
}

impl Ranks<'_> {
    fn pick<T>(
        &self,
        option: Option<Said<T>>,
        variable: Option<Said<T>>,
        of: impl FnOnce(&Context) -> Option<T>,
    ) -> Option<Said<T>> {
        let context = || {
            let name = &self.chosen.as_ref()?.value;
            let value = of(self.context?)?;
            let source = Source::Context(name.clone());
            Some(Said { value, source })
        };
        if self.first {
            option.or_else(context).or(variable)
        } else {
            option.or(variable).or_else(context)
        }
    }
}

fn said<T: Clone>(value: &Option<T>, source: Source) -> Option<Said<T>> {
    value.clone().map(|value| Said { value, source })
}

fn file(said: Said<PathBuf>) -> Said<TokenAt> {
    Said {
        value: TokenAt::File(said.value),
        source: said.source,
    }
}

fn token_of(context: &Context) -> Option<TokenAt> {
    let stored = context.token.clone().map(TokenAt::Given);
    stored.or_else(|| context.token_file.clone().map(TokenAt::File))
}

/// Whether two URLs name the same server.
fn same(a: &str, b: &str) -> bool {
    match (reqwest::Url::parse(a), reqwest::Url::parse(b)) {
        (Ok(a), Ok(b)) => a.origin() == b.origin(),
        (Ok(_) | Err(_), _) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        toml::from_str(
            "current = \"prod\"\n\
             [context.prod]\nserver = \"https://prod.example\"\ntoken_file = \"/prod.token\"\nca = \"/prod.pem\"\n\
             [context.test]\nserver = \"http://127.0.0.1:1\"\ntoken = \"opt_test\"\n",
        )
        .unwrap()
    }

    /// `server (source); token (source); ca (source)`
    fn shown(args: &ConnectionArgs, environment: &Environment, contexts: &Contexts) -> String {
        let it = resolve(args, environment, contexts).unwrap();
        let token = it.token.map(|token| match token.value {
            TokenAt::File(path) => format!("{} ({})", path.display(), token.source),
            TokenAt::Given(text) => format!("{text} ({})", token.source),
        });
        let ca = it
            .ca
            .map(|ca| format!("{} ({})", ca.value.display(), ca.source));
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let withheld = or(it.token_withheld);
        format!(
            "{} ({}); {}; {}; {withheld}",
            it.server.value,
            it.server.source,
            or(token),
            or(ca)
        )
    }

    #[test]
    fn option_environment_context_default_in_this_order() {
        let (all, none) = (contexts(), Contexts::default());
        let text = |text: &str| Some(text.to_owned());
        let option = ConnectionArgs {
            server: text("https://o.example"),
            token_file: Some("/o".into()),
            ..Default::default()
        };
        let environment = Environment {
            server: text("https://e.example"),
            token: text("opt_e"),
            ..Default::default()
        };
        let (no_option, no_environment) = (ConnectionArgs::default(), Environment::default());
        let to_test = ConnectionArgs {
            context: text("test"),
            ..Default::default()
        };
        let by_variable = Environment {
            context: text("test"),
            ..Default::default()
        };
        let both = Environment {
            context: text("test"),
            ..environment.clone()
        };
        for (args, environment, contexts, expected) in [
            (
                &no_option,
                &no_environment,
                &none,
                "http://127.0.0.1:7080 (default); -; -; -",
            ),
            (
                &no_option,
                &no_environment,
                &all,
                "https://prod.example (context prod); /prod.token (context prod); /prod.pem (context prod); -",
            ),
            (
                &no_option,
                &by_variable,
                &all,
                "http://127.0.0.1:1 (context test); opt_test (context test); -; -",
            ),
            (
                &no_option,
                &both,
                &all,
                "https://e.example (variable OUTPOST_SERVER); opt_e (variable OUTPOST_TOKEN); -; -",
            ),
            (
                &to_test,
                &environment,
                &all,
                "http://127.0.0.1:1 (context test); opt_test (context test); -; -",
            ),
            (
                &option,
                &environment,
                &all,
                "https://o.example (option --server); /o (option --token-file); -; -",
            ),
        ] {
            assert_eq!(shown(args, environment, contexts), expected);
        }
    }

    #[test]
    fn the_token_of_a_context_is_for_its_own_server_only() {
        let text = |text: &str| Some(text.to_owned());
        let other = ConnectionArgs {
            server: text("https://other.example"),
            ..Default::default()
        };
        assert_eq!(
            shown(&other, &Environment::default(), &contexts()),
            "https://other.example (option --server); -; -; https://prod.example"
        );
        let same = ConnectionArgs {
            server: text("https://prod.example:443/"),
            ..Default::default()
        };
        assert_eq!(
            shown(&same, &Environment::default(), &contexts()),
            "https://prod.example:443/ (option --server); /prod.token (context prod); /prod.pem (context prod); -"
        );
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_one_that_is() {
        let args = ConnectionArgs {
            context: Some("prd".to_owned()),
            ..Default::default()
        };
        let failure = resolve(&args, &Environment::default(), &contexts())
            .err()
            .unwrap();
        assert_eq!(failure.to_string(), "there is no context `prd`");
        assert_eq!(failure.help().unwrap(), "did you mean `prod`?");
    }
}
