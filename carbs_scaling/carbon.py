"""Grams of CO2 that a kWh of electricity causes, by country."""

# The year of the figures, but for the countries below it.
YEAR, EARLIER_YEAR = 2023, 2022
OF_EARLIER_YEAR = ("ARE", "HKG", "IDN", "ISL", "ISR", "MYS", "SAU", "UKR")
SOURCE = "Our World in Data"
# Grams of CO2 equivalent a kWh of what was generated in a country, by its ISO 3166-1 code of three letters:
# Our World in Data, from Ember and the Energy Institute, as codecarbon 3.3.2 carries it (MIT licence). The
# world's mean is the IEA's, of its Global Energy and CO2 Status Report 2019, as codecarbon has it too.
GRAMS_PER_KWH = {
    "world": 475,
    "ARE": 561, "ARG": 354, "AUS": 549, "AUT": 111, "BEL": 138, "BGR": 335, "BRA": 98, "CAN": 170,
    "CHE": 35, "CHL": 291, "CHN": 582, "COL": 260, "CZE": 450, "DEU": 381, "DNK": 152, "EGY": 570,
    "ESP": 174, "EST": 417, "FIN": 79, "FRA": 56, "GBR": 238, "GRC": 337, "HKG": 699, "HUN": 204,
    "IDN": 676, "IND": 713, "IRL": 291, "ISL": 28, "ISR": 583, "ITA": 331, "JPN": 485, "KEN": 70,
    "KOR": 431, "LTU": 160, "LUX": 105, "LVA": 123, "MAR": 630, "MEX": 507, "MYS": 606, "NGA": 523,
    "NLD": 268, "NOR": 30, "NZL": 113, "PAK": 441, "PER": 266, "PHL": 611, "POL": 662, "PRT": 166,
    "ROU": 241, "RUS": 441, "SAU": 707, "SGP": 471, "SRB": 636, "SVK": 117, "SVN": 231, "SWE": 41,
    "THA": 550, "TUR": 465, "TWN": 642, "UKR": 260, "USA": 369, "VNM": 475, "ZAF": 708,
}  # fmt: skip


def intensity_source(country: str) -> str:
    """Where a country's figure is from, and of which year."""
    if country == "world":
        return "world, IEA 2019"
    return f"{country}, {SOURCE} {EARLIER_YEAR if country in OF_EARLIER_YEAR else YEAR}"
