"""Every setting, in one place: ``AL_*`` environment variables with their defaults."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from al_dagster.core.errors import UserError
from al_dagster.core.paths import plain_path


class Settings(BaseSettings):
    """Where things are kept and how the platform behaves; each field is the environment variable ``AL_<FIELD>``."""

    model_config = SettingsConfigDict(env_prefix="AL_", env_ignore_empty=True)

    home: Path = Field(Path("data"), description="Folder for everything that the program writes.")
    inbox_path: Path | None = Field(
        None, alias="AL_INBOX", description="Folder watched for new files, one folder a project; default AL_HOME/inbox."
    )
    lake_path: str | None = Field(
        None, alias="AL_LAKE", description="fsspec path of the Parquet lake; default AL_HOME/lake."
    )
    registry_url: str | None = Field(
        None, description="SQLAlchemy URL of the registry; default SQLite in AL_HOME/registry/registry.db."
    )
    mlflow_uri: str | None = Field(
        None, description="MLflow tracking URI; default SQLite in AL_HOME/mlflow.db with artifacts beside it."
    )
    models_path: Path | None = Field(
        None, alias="AL_MODELS", description="Folder of model weights; default AL_HOME/models."
    )
    device: str = Field(
        "auto",
        description="Where models in torch run: auto (a GPU), cuda, cuda:N, or cpu, which is slow.",
    )
    max_vram_gb: float | None = Field(None, gt=0, description="GiB of the GPU's memory to use; default all of it.")
    torch_compile: bool = Field(
        False, description="Compile models in torch: the first batch takes minutes more, the others less."
    )
    batch_size: int = Field(256, ge=1, le=1000, description="Most images in one batch.")
    settle_seconds: float = Field(
        5.0, ge=0, description="A file is taken from the inbox once it has not changed for this long."
    )
    max_image_pixels: int = Field(
        200_000_000, ge=1, description="Images that decode to more pixels than this are quarantined."
    )
    image_cache_mb: int = Field(1024, ge=0, description="Memory for decoded images shared by the stages of a run.")
    duplicate_distance: int = Field(
        6,
        ge=0,
        le=255,
        description="Images whose 256-bit perceptual hashes differ in at most this many bits are "
        "near-duplicates and share a split.",
    )
    port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI on 127.0.0.1.")
    ui_hosts: str = Field(
        "", description="Names, separated by commas, that the Dagster UI may be called by behind a proxy."
    )
    log_format: str = Field("console", pattern="^(console|json)$", description="console or json.")
    log_level: str = Field("INFO", description="Least severe level that is logged.")

    @property
    def inbox(self) -> Path:
        """Folder watched for new files."""
        return (self.inbox_path or self.home / "inbox").absolute()

    @property
    def lake(self) -> str:
        """Fsspec path of the Parquet lake."""
        return self.lake_path or str((self.home / "lake").absolute())

    @property
    def registry_dir(self) -> Path:
        """Folder of the registry: database, masks and vectors."""
        return plain_path(self.home) / "registry"

    @property
    def masks_dir(self) -> Path:
        """Folder of the mask store."""
        return self.registry_dir / "masks"

    @property
    def chroma_dir(self) -> Path:
        """Folder of the embedded Chroma."""
        return self.registry_dir / "chroma"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.registry_url or f"sqlite:///{self.registry_dir / 'registry.db'}"

    @property
    def pictures_dir(self) -> Path:
        """Folder of the pictures that the Dagster UI shows."""
        return (self.home / "pictures").absolute()

    @property
    def models_dir(self) -> Path:
        """Folder of model weights, one folder a model."""
        return (self.models_path or self.home / "models").absolute()

    @property
    def exports_dir(self) -> Path:
        """Folder of the exported datasets."""
        return (self.home / "exports").absolute()

    @property
    def scratch_dir(self) -> Path:
        """Folder of files that a process needs only while it runs."""
        plain = plain_path(self.home)
        # ultralytics writes to where a link leads, so that here a link would not do.
        return plain / "scratch" if plain == self.home.absolute() else plain.with_name(f"{plain.name}-scratch")

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI."""
        return self.mlflow_uri or f"sqlite:///{plain_path(self.home) / 'mlflow.db'}"

    @property
    def artifacts_dir(self) -> Path:
        """Folder of the MLflow artifacts."""
        return plain_path(self.home) / "mlartifacts"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance folder."""
        return plain_path(self.home) / "dagster"


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        UserError: a variable has a value that does not fit.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = f"AL_{str(first['loc'][0]).upper().removeprefix('AL_')}"
        raise UserError(f"{variable}: {first['msg']}, but it is {first['input']!r}") from None
